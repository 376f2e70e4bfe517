"""The gradaware command: help with an example everywhere, at once; mistakes in one line; Ctrl-C says what is left."""

import subprocess
import sys

import pytest

from stages.tools import cli
from tests.pipeline import tiny

COMMANDS = ("describe", "audit", "diff", "import-facts", "preset")


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_shows_an_example(command: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as stopped:
        cli.main([*([command] if command else []), "--help"])
    shown = capsys.readouterr().out
    assert stopped.value.code == 0 and f"gradaware {command}" in shown.partition("usage:")[2].partition("\n\n")[2]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_says_what_is_read_and_written(command: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        cli.main([command, "--help"])
    shown = capsys.readouterr().out
    assert "Reads" in shown and "rites" in shown and "GPU" in shown


def test_help_and_imports_start_without_torch():
    code = (
        "import sys; from stages.tools import cli, import_facts, preset; cli.parser();"
        "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=tiny.ROOT).returncode == 0


def test_the_entry_is_declared():
    assert 'gradaware = "gradaware.tools.cli:main"' in (tiny.ROOT / "pyproject.toml").read_text(encoding="utf-8")


def test_a_mistake_is_one_line_and_exit_code_1(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as stopped:
        cli.main(["preset", "nothing"])
    assert str(stopped.value.code).startswith("error: preset 'nothing': unknown, wanted one of ")


def test_a_missing_command_is_a_usage_error(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as stopped:
        cli.main([])
    assert stopped.value.code == 2 and "COMMAND" in capsys.readouterr().err


def test_a_reader_that_stops_reading_is_no_mistake():
    script = 'set -o pipefail; "$0" -m stages.tools.cli preset | true'
    done = subprocess.run(["bash", "-c", script, sys.executable], cwd=tiny.ROOT, capture_output=True, text=True)
    assert done.stderr == ""


def test_ctrl_c_says_what_is_left(monkeypatch: pytest.MonkeyPatch):
    def interrupted(_name: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("stages.tools.preset.read_preset", interrupted)
    with pytest.raises(SystemExit) as stopped:
        cli.main(["preset", "pythia"])
    assert "stopped: every file is as it was or whole; run the same command again" in str(stopped.value.code)
