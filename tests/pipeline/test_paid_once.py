"""Labels that cost are not asked for again by accident: what is gone is fetched, or the stage stops before it asks."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from stages.tools.dependencies import differences
from tests.labellers.conftest import KEY
from tests.labellers.server import Server, teacher
from tests.pipeline import tiny
from tests.pipeline.damage import LABELS, edit_hash, held, lose, ran, spoil
from tests.pipeline.hermetic import files
from tests.pipeline.remotes import Remote
from tests.pipeline.warm import Warm


@pytest.fixture
def teammate(tiny_pipeline: Path, tmp_path: Path) -> Path:
    """A repository whose labels were paid for elsewhere: dvc.lock says so, a remote has them, no answer is here."""
    own = tiny.copied(tiny_pipeline, tmp_path / "own")
    tiny.edit_params(own, labels__backend="openai")
    differences(own, write=True)
    tiny.command(own, "dvc", "commit", "--force")  # as if they had been asked for and paid
    Remote(str(tmp_path / "store")).add(own)
    tiny.save(own, "Labels that cost")
    tiny.command(own, "dvc", "push")
    assert not (own / ".cache/labels/answers.sqlite").exists()
    return own


@pytest.fixture
def api() -> Iterator[Server]:
    """A paid API."""
    with Server(teacher) as server:
        yield server


def asking(api: Server, key: str = KEY) -> dict[str, str]:
    """The environment of somebody who could pay; with an empty key, of somebody who could not."""
    return {"OPENAI_API_KEY": key, "OPENAI_BASE_URL": api.url}


GONE = {
    "a corrupted object in the cache": lambda root: spoil(root / ".dvc/cache" / held(root, LABELS)),
    "an edited hash in dvc.lock": edit_hash,
    "a file that is lost": lose,
}


OF_MUSIC = [f"labels/{path}" for path in ("music.parquet", "quarantine/music.parquet", "second/music.parquet")]
OF_MUSIC.append("labels/metrics/music.json")


@pytest.mark.parametrize(("gone", "key"), [*((gone, KEY) for gone in GONE), ("a file that is lost", "")])
def test_labels_that_cost_are_not_asked_for_again_by_accident(
    gone: str, key: str, teammate: Path, api: Server, warm_python: Warm
):
    before = files(teammate / "data")
    GONE[gone](teammate)
    done = tiny.command(teammate, "dvc", "repro", warm=warm_python, check=False, env=asking(api, key))
    assert api.asked == [] and ran(done) == ["labels@music"]
    assert done.returncode != 0 and "Traceback" not in done.stderr
    said = next(line for line in done.stderr.splitlines() if line.startswith("error: "))
    assert re.search(r"dvc.lock: labels@music: has been paid for: .* \d+ of its answers are not in .cache/labels", said)
    assert "dvc pull labels@music" in said and "LABELS_PAY_AGAIN=1" in said
    left = files(teammate / "data")
    assert {name for name in before if left.get(name) != before[name]} <= {*OF_MUSIC}
    tiny.command(teammate, "git", "checkout", "dvc.lock")
    tiny.command(teammate, "dvc", "pull", "labels@music")
    assert files(teammate / "data") == before
    assert ran(tiny.command(teammate, "dvc", "repro", warm=warm_python, env=asking(api, key))) == []
    assert api.asked == []


@pytest.mark.parametrize("gone", ["a corrupted object in the cache", "a file that is lost"])
def test_repro_with_pull_fetches_labels_that_cost(gone: str, teammate: Path, api: Server, warm_python: Warm):
    before = files(teammate / "data")
    GONE[gone](teammate)
    done = tiny.command(teammate, "dvc", "repro", "--pull", warm=warm_python, check=False, env=asking(api))
    assert api.asked == []
    assert done.returncode == 0 and ran(done) == [], done.stderr
    assert files(teammate / "data") == before


def test_a_budget_that_is_raised_asks_nothing(teammate: Path, api: Server, warm_python: Warm):
    tiny.edit_params(teammate, api__budget=6.0)
    assert ran(tiny.command(teammate, "dvc", "repro", warm=warm_python, env=asking(api))) == []
    assert api.asked == []


def test_labels_whose_requests_change_are_asked_for(teammate: Path, api: Server, warm_python: Warm):
    tiny.edit_params(teammate, labels__top_tokens=3)
    done = tiny.command(teammate, "dvc", "repro", "labels", warm=warm_python, check=False, env=asking(api))
    assert done.returncode == 0 and len(api.asked) > 100, done.stderr
