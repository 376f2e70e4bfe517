"""What every stage's command line shares: help from its docstring, progress, and errors in one line."""

import argparse
import logging
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from .files import write_json

COSTS = Path(".cache/costs")
"""What each stage took last time, for reviews; git-ignored, and nothing depends on it."""
UNWRITABLE = ("SQLITE_FULL", "SQLITE_IOERR_WRITE", "SQLITE_IOERR_FSYNC", "SQLITE_READONLY")
"""What sqlite, which keeps paid answers, says of a full or read-only disk."""


def parse(doc: str | None, stage: str, by_domain: bool) -> str:
    """Parses the stage's command line; returns the domain ("" for a stage that works on all of them)."""
    parser = argparse.ArgumentParser(
        prog=f"python -m stages.{stage}", description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    if by_domain:
        parser.add_argument("domain", help="one of params.yaml: domains")
    return getattr(parser.parse_args(), "domain", "")


def run(main: Callable[[], None]) -> None:
    """Runs a stage. A user's mistake or a full disk is one line on stderr and exit code 1; Ctrl-C says what is kept."""
    logging.getLogger("transformers").setLevel(logging.ERROR)
    start = time.monotonic()
    try:
        main()
        name = "@".join([Path(sys.argv[0]).stem, *sys.argv[1:]])
        write_json(COSTS / f"{name}.json", {"seconds": round(time.monotonic() - start, 1)})
    except ValueError as error:
        sys.exit(f"error: {error}")
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        sys.exit(
            f"error: {where}{error.strerror or error}; finished pieces are kept in .scratch: run the same command again"
        )
    except sqlite3.OperationalError as error:
        if error.sqlite_errorname not in UNWRITABLE:
            raise
        sys.exit(f"error: answers.sqlite: {error}; answers before that are kept in .cache: run the same command again")
    except KeyboardInterrupt:
        sys.exit("stopped: finished pieces are kept in .scratch; run the same command to go on")


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
