"""How a command ends: a user's mistake is one line, a fault is one line and a log with its traceback."""

import errno
import signal
import sqlite3
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from pydantic import BaseModel, field_validator

from stages.core.run import stage
from stages.core.run.errors import InputError
from stages.core.run.files import read_json
from stages.core.run.stage import COSTS, LOGS, run


@pytest.fixture(autouse=True)
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command is `python -m stages.labels music`, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["/somewhere/stages/labels.py", "music"])


def said(main: Callable[[], object]) -> str:
    """The one line that `main` ends with."""

    def command() -> None:
        main()

    with pytest.raises(SystemExit) as stopped:
        run(command)
    assert isinstance(stopped.value.code, str) and "\n" not in stopped.value.code
    return stopped.value.code


def test_a_user_s_mistake_is_one_line_without_a_log():
    def main() -> None:
        raise InputError("params.yaml: domains: unknown domain 'sport'")

    assert said(main) == "error: params.yaml: domains: unknown domain 'sport'"
    assert not LOGS.exists()


def interrupted_query() -> None:
    """A query within which Ctrl-C is pressed; sqlite makes an OperationalError of it."""

    def press() -> int:
        signal.raise_signal(signal.SIGINT)
        return 1

    connection = sqlite3.connect(":memory:")
    connection.create_function("press", 0, press)
    connection.execute("select press()")


@pytest.fixture
def heeded() -> Iterator[None]:
    """Ctrl-C interrupts, as in a terminal; a shell has it ignored in what runs behind."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heeded")
def test_an_error_that_a_library_makes_of_ctrl_c_is_ctrl_c():
    with pytest.raises(sqlite3.OperationalError):
        interrupted_query()
    assert said(interrupted_query).startswith("stopped: finished pieces are kept")
    assert not LOGS.exists()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.usefixtures("heeded")
def test_where_ctrl_c_is_ignored_it_stays_so():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    run(interrupted_query)
    assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN


FAULTS: dict[str, tuple[Callable[[], object], str]] = {
    "numpy": (lambda: np.zeros(3) + np.zeros(4), "ValueError: operands could not be broadcast together"),
    "polars": (lambda: pl.DataFrame({"a": [1]}).select("b"), "ColumnNotFoundError"),
    "Python": (lambda: int("four"), "ValueError: invalid literal for int"),
    "a file that nobody looked for": (lambda: Path("nothing").read_text(), "FileNotFoundError"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_any_other_exception_keeps_its_traceback_in_a_log(fault: str):
    main, message = FAULTS[fault]
    line = said(main)
    assert line.startswith(f"error: {message}") and "the traceback is in .cache/logs/labels@music.log" in line
    assert "run the same command again" in line
    log = (LOGS / "labels@music.log").read_text(encoding="utf-8")
    assert log.startswith("Traceback") and message in log and Path(__file__).name in log


def test_ranks_keep_a_log_each(monkeypatch: pytest.MonkeyPatch):
    for rank in "01":
        monkeypatch.setenv("RANK", rank)
        said(lambda: int("four"))
    assert sorted(path.name for path in LOGS.iterdir()) == ["labels@music0.log", "labels@music1.log"]


def test_where_no_log_can_be_written_the_traceback_is_shown(capsys: pytest.CaptureFixture[str]):
    Path(".cache").touch()
    assert "the traceback stands above" in said(lambda: int("four"))
    assert "Traceback" in capsys.readouterr().err


def test_a_full_disk_is_one_line_without_a_log():
    def main() -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "data/labels/music.parquet")

    assert said(main).startswith("error: data/labels/music.parquet: No space left on device; finished pieces are kept")
    assert not LOGS.exists()


def test_the_mistakes_are_value_errors_to_those_who_import_us():
    class Facts(BaseModel):
        name: str

        @field_validator("name")
        @classmethod
        def refused(cls, name: str) -> str:
            raise InputError(f"found {name!r}")

    with pytest.raises(ValueError, match="found 'x'"):
        Facts(name="x")


ARGUMENTS = {
    "labels@music": ["music"],
    "sweep": [word for index in range(40) for word in ("--set", f"projector.layers=[{index}, {index + 1}]")],
    "review": ["origin/main"],
    "projector": [],
    "judge": ["m" * 300],
}


@pytest.mark.parametrize("name", ARGUMENTS)
def test_what_a_run_took_is_kept_under_a_short_name(name: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "argv", [f"/somewhere/stages/{name.partition('@')[0]}.py", *ARGUMENTS[name]])
    run(lambda: None)
    assert read_json(COSTS / f"{name}.json")["seconds"] >= 0


def test_what_users_can_put_right_is_raised_as_such_everywhere():
    """A bare ValueError is for what no user can cause: statistics of too few entities, which are asked for nowhere."""
    root = Path(stage.__file__).parents[2]
    bare = {path.name for path in root.rglob("*.py") if "raise ValueError(" in path.read_text(encoding="utf-8")}
    assert bare <= {"statistics.py"}, "raise InputError (stages/core/run/errors.py)"
