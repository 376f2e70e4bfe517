"""What all commands share: help from a docstring, a progress bar, errors in one line and what a run took."""

import argparse
import logging
import os
import re
import signal
import sqlite3
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from .errors import InputError, one_line
from .files import unwritable, write_json

COSTS, LOGS = Path(".cache/costs"), Path(".cache/logs")
"""Where each stage writes how long it took and the traceback of an unforeseen error; git-ignored, read by no stage."""
UNWRITABLE = ("SQLITE_FULL", "SQLITE_IOERR_WRITE", "SQLITE_IOERR_FSYNC", "SQLITE_READONLY")
"""What sqlite, which keeps paid answers, says of a full or read-only disk."""


def parser(doc: str | None, module: str) -> argparse.ArgumentParser:
    """The command line of `python -m stages.<module>`; --help shows the module's docstring as it stands."""
    return argparse.ArgumentParser(
        prog=f"python -m stages.{module}", description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def parse(doc: str | None, stage: str, by_domain: bool) -> str:
    """Parses the stage's command line; returns the domain ("" for a stage that works on all of them)."""
    line = parser(doc, stage)
    if by_domain:
        line.add_argument("domain", help="one of params.yaml: domains")
    return getattr(line.parse_args(), "domain", "")


def run(main: Callable[[], None]) -> None:
    """Runs a stage: errors and Ctrl-C are one line (`errors_in_one_line`), its time is written down."""
    logging.getLogger("transformers").setLevel(logging.ERROR)
    start = time.monotonic()
    with errors_in_one_line("stopped: finished pieces are kept in .scratch; run the same command to go on"):
        main()
        write_json(COSTS / f"{command_name()}.json", {"seconds": round(time.monotonic() - start, 1)})


@contextmanager
def errors_in_one_line(stopped: str = "stopped: run the same command again") -> Iterator[None]:
    """Turns an exception within the block into one line on stderr and exit code 1.

    An InputError and a full disk say what to do; Ctrl-C is `stopped`. Any other exception is a fault of the program or
    the machine: the line names it and the file below .cache/logs that has its traceback. One that follows a Ctrl-C is
    Ctrl-C: compiled code that meets an interrupt may make an error of its own of it, polars a TypeError for example.
    """
    pressed = False

    def press(number: int, frame: FrameType | None) -> None:
        nonlocal pressed
        pressed = True
        signal.default_int_handler(number, frame)

    before = signal.getsignal(signal.SIGINT)
    if before is signal.default_int_handler:  # else it is ignored, as behind nohup, or another's
        signal.signal(signal.SIGINT, press)
    try:
        yield
    except BaseException as error:
        if pressed or isinstance(error, KeyboardInterrupt):
            sys.exit(stopped)
        if isinstance(error, Exception):
            sys.exit(f"error: {told(error)}")
        raise
    finally:
        signal.signal(signal.SIGINT, before)


def told(error: Exception) -> str:
    """What went wrong and what to do, in one line; the traceback of what nobody foresaw goes to a log."""
    if isinstance(error, InputError):
        return str(error)
    if isinstance(error, sqlite3.OperationalError) and error.sqlite_errorname in UNWRITABLE:
        return f"answers.sqlite: {error}; answers before that are kept in .cache: run the same command again"
    if isinstance(error, OSError) and unwritable(error) is not None:
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror or error}; finished pieces are kept in .scratch: run the same command again"
    return (
        f"{type(error).__name__}: {one_line(error)[:300]}; {logged()}; "
        "what was finished is kept: run the same command again, and report the traceback if that ends the same"
    )


def logged() -> str:
    """Writes the traceback of the exception being handled to a log file; returns where it stands, in words."""
    path = LOGS / f"{command_name()}{os.environ.get('RANK', '')}.log"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(traceback.format_exc(), encoding="utf-8")
    except OSError:
        traceback.print_exc()
        return "the traceback stands above"
    return f"the traceback is in {path}"


def command_name() -> str:
    """The running command as the name of a file: a stage, with "@" and its domain if it has one."""
    domain = [text for text in sys.argv[1:] if re.fullmatch(r"\w{1,100}", text)]
    return "@".join([Path(sys.argv[0]).stem, *(domain if len(sys.argv) == 2 else [])])


@contextmanager
def progress(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """Yields `advance(steps)`; shows a bar with rate and time left, only where stderr is a terminal."""
    console = Console(stderr=True)
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.speed:.0f}/s"),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    )
    with bar:
        task = bar.add_task(what, total=total)
        yield lambda steps: bar.advance(task, steps)
