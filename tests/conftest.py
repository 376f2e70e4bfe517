"""The tiny pipeline, run once a session, and the warm python that runs it."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from filelock import FileLock

from tests.pipeline import tiny
from tests.pipeline.warm import Warm, warm

FIRST = (
    "tests/pipeline/test_kill.py",
    "tests/core/engine/",
    "tests/pipeline/",
    "tests/test_docs.py",
    "tests/test_devices.py",
)
"""How the names of the tests that are run first begin.

Long files are, so that of two processes none is left with one at the end. The second begins with what needs no run of
the tiny pipeline, which the first makes for both meanwhile.
"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts tests in the order of FIRST, the others behind them."""

    def place(item: pytest.Item) -> int:
        return next((place for place, name in enumerate(FIRST) if item.nodeid.startswith(name)), len(FIRST))

    items.sort(key=place)


@pytest.fixture(scope="session")
def warm_python(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Warm]:
    """A python with torch imported already."""
    with warm(tmp_path_factory.mktemp("warm") / "one", hash_seed=1) as server:
        yield server


@pytest.fixture(scope="session")
def tiny_pipeline(tmp_path_factory: pytest.TempPathFactory, warm_python: Warm) -> Path:
    """A finished tiny repository, every stage run and committed. Read only: work on `tiny.copied(...)`.

    One for all processes that run tests: the first that wants it makes it.
    """
    shared = tmp_path_factory.getbasetemp()
    shared = shared.parent if "PYTEST_XDIST_WORKER" in os.environ else shared
    root = shared / "tiny/repository"
    with FileLock(shared / "tiny.lock"):
        if not (shared / "tiny.finished").exists():
            tiny.make_repository(root)
            tiny.reproduce(root, warm_python)
            tiny.save(root, "Run")
            (shared / "tiny.finished").touch()
    return root
