"""The tiny pipeline, run once a session, and the warm python that runs it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.pipeline import tiny
from tests.pipeline.warm import Warm, warm


@pytest.fixture(scope="session")
def warm_python(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Warm]:
    """A python with torch imported already."""
    with warm(tmp_path_factory.mktemp("warm") / "one", hash_seed=1) as server:
        yield server


@pytest.fixture(scope="session")
def tiny_pipeline(tmp_path_factory: pytest.TempPathFactory, warm_python: Warm) -> Path:
    """A finished tiny repository, every stage run and committed. Read only: work on `tiny.copied(...)`."""
    root = tmp_path_factory.mktemp("tiny") / "repository"
    tiny.make_repository(root)
    tiny.reproduce(root, warm_python)
    tiny.save(root, "Run")
    return root
