"""Every command says what it is for: --help exits with 0, shows an example, and what is read and written."""

import runpy
import sys
from pathlib import Path

import pytest

from tests.pipeline import tiny

COMMANDS = sorted(
    ".".join(path.relative_to(tiny.ROOT / "stages").with_suffix("").parts)
    for pattern in ("stages/*.py", "stages/tools/*.py")
    for path in tiny.ROOT.glob(pattern)
    if 'if __name__ == "__main__":' in path.read_text(encoding="utf-8")
)


@pytest.mark.parametrize("module", COMMANDS)
def test_help_shows_an_example(
    module: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, f"stages.{module}", raising=False)
    monkeypatch.setattr(sys, "argv", [f"stages.{module}", "--help"])
    command = "gradaware" if module == "tools.cli" else f"python -m stages.{module}"
    with pytest.raises(SystemExit) as stopped:
        runpy.run_module(f"stages.{module}", run_name="__main__")
    usage, _, rest = capsys.readouterr().out.partition("\n\n")
    assert not stopped.value.code and usage.startswith(f"usage: {command}")
    assert any(line.strip().startswith((command, "make ")) for line in rest.splitlines()), (
        "an example on a line of its own"
    )
    assert module == "tools.cli" or ("ead" in rest and ("rite" in rest or "rint" in rest)), "what it reads and writes"
    assert not list(tmp_path.iterdir()), "help writes nothing"
