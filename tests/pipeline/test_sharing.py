"""Data shared through a folder and through S3: a teammate gets it and reruns nothing, and what goes wrong is said."""

import json
import re
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.pipeline import tiny
from tests.pipeline.damage import LABELS, edit_hash, held, ran, replaced, spoil
from tests.pipeline.hermetic import files, locked, outputs
from tests.pipeline.remotes import Remote, s3
from tests.pipeline.warm import Warm


@pytest.fixture(scope="module", params=["folder", "s3"])
def remote(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Remote]:
    folder = tmp_path_factory.mktemp("remote")
    if request.param == "folder":
        yield Remote(str(folder / "store"))
    else:
        with s3(folder / "server") as found:
            yield found


@pytest.fixture(scope="module")
def shared(remote: Remote, tiny_pipeline: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished repository whose data, and the record of its runs, have been pushed. Read only."""
    root = tiny.copied(tiny_pipeline, tmp_path_factory.mktemp("shared") / "repository")
    remote.add(root)
    tiny.save(root, "Where the data is shared")
    tiny.command(root, "dvc", "push", "--run-cache", env=remote.environment)
    return root


@pytest.fixture
def clone(shared: Path, tmp_path: Path) -> Path:
    """A teammate's clean clone, nothing pulled yet."""
    tiny.command(tmp_path, "git", "clone", "-q", str(shared), "clone")
    return tmp_path / "clone"


def computed() -> float:
    """Seconds that this process's commands have computed so far, which another's work does not make more."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_clone_pull_repro_runs_nothing(clone: Path, shared: Path, remote: Remote, warm_python: Warm):
    start = computed()
    tiny.command(clone, "dvc", "pull", env=remote.environment)
    done = tiny.reproduce(clone, warm_python)
    assert ran(done) == [] and "Data and pipelines are up to date." in done.stdout
    assert computed() - start < 20
    for entry in locked(shared).values():
        assert outputs(clone, entry) == outputs(shared, entry)
    assert tiny.command(clone, "git", "status", "--porcelain").stdout == ""


def test_one_domain_only(clone: Path, shared: Path, remote: Remote):
    tiny.command(clone, "dvc", "pull", "gradients@music", "labels@music", env=remote.environment)
    data = {name.split("/")[0] for name in files(clone / "data")} - {"facts", "questions"}
    assert data == {"gradients", "labels"}
    assert not [name for name in files(clone / "data/gradients") if not name.startswith("music.zarr/")]
    assert outputs(clone, locked(shared)["gradients@music"]) == outputs(shared, locked(shared)["gradients@music"])


def test_an_older_params_value_comes_back_without_a_run(
    clone: Path, shared: Path, remote: Remote, warm_python: Warm, tmp_path: Path
):
    author = tiny.copied(shared, tmp_path / "author")
    tiny.edit_params(author, evaluation__seed=5)
    assert ran(tiny.reproduce(author, warm_python)) == ["evaluation", "grounding", "report"]
    tiny.save(author, "Another seed")
    tiny.command(author, "dvc", "push", "--run-cache", env=remote.environment)

    tiny.command(clone, "git", "pull", "-q", str(author), "main")
    tiny.command(clone, "dvc", "pull", "--run-cache", env=remote.environment)
    tiny.edit_params(clone, evaluation__seed=0)
    done = tiny.command(clone, "dvc", "repro", "--pull", warm=warm_python, env=remote.environment)
    assert ran(done) == [] and "Stage 'evaluation' is cached - skipping run, checking out outputs" in done.stdout
    assert outputs(clone, locked(shared)["evaluation"]) == outputs(shared, locked(shared)["evaluation"])


def test_an_object_missing_on_the_remote(clone: Path, remote: Remote, shared: Path, warm_python: Warm):
    with replaced(remote, held(shared, LABELS), None):
        done = tiny.command(clone, "dvc", "pull", check=False, env=remote.environment)
        assert done.returncode != 0 and LABELS in done.stderr
        entry = locked(shared)["gradients@music"]
        assert outputs(clone, entry) == outputs(shared, entry)  # the rest is there
        # Not made anew either, unless it is asked for: the lock says what it was made from.
        again = tiny.command(clone, "dvc", "repro", "--allow-missing", warm=warm_python, check=False)
        assert ran(again) == []
    tiny.command(clone, "dvc", "pull", env=remote.environment)


def test_a_corrupted_object_on_the_remote(clone: Path, remote: Remote, shared: Path):
    with replaced(remote, held(shared, LABELS), b"SPAM") as good:
        tiny.command(clone, "dvc", "remote", "modify", "share", "verify", "true")
        done = tiny.command(clone, "dvc", "pull", check=False, env=remote.environment)
        assert done.returncode != 0, done.stdout
        assert LABELS in done.stderr
        assert not (clone / LABELS).exists()
    tiny.command(clone, "dvc", "pull", env=remote.environment)
    assert (clone / LABELS).read_bytes() == good


def test_repro_with_pull_fetches_what_was_corrupted_in_the_cache(
    clone: Path, remote: Remote, shared: Path, warm_python: Warm
):
    """Without the option the stage runs again, for hours where the model is large."""
    tiny.command(clone, "dvc", "pull", env=remote.environment)
    before = files(clone / "data")
    spoil(clone / ".dvc/cache" / held(clone, LABELS))
    gradients = clone / ".dvc/cache" / held(clone, "data/gradients/music.zarr")
    member = json.loads(gradients.read_text())[0]["md5"]
    spoil(clone / ".dvc/cache/files/md5" / member[:2] / member[2:])
    done = tiny.command(clone, "dvc", "repro", "--pull", warm=warm_python, env=remote.environment)
    assert ran(done) == [] and files(clone / "data") == before


@pytest.mark.parametrize("remote", ["s3"], indirect=True)
def test_wrong_credentials_are_said_and_cost_nothing(clone: Path, remote: Remote, warm_python: Warm):
    before = files(clone / "data")
    for wrong in ({"AWS_ACCESS_KEY_ID": "AKIAWRONG"}, {"AWS_SECRET_ACCESS_KEY": "wrong"}):
        done = tiny.command(clone, "dvc", "pull", check=False, env=remote.environment | wrong)
        assert done.returncode != 0 and "Traceback" not in done.stderr
        assert re.search(r"InvalidAccessKeyId|access key|SignatureDoesNotMatch|signature|403|Forbidden", done.stderr), (
            done.stderr
        )
    assert files(clone / "data") == before


@pytest.fixture
def own(tiny_pipeline: Path, tmp_path: Path) -> Path:
    """A finished repository of one's own."""
    return tiny.copied(tiny_pipeline, tmp_path / "own")


def test_a_corrupted_object_in_the_cache(own: Path, warm_python: Warm):
    """DVC throws the object away and runs its stage alone, which writes the very bytes that dvc.lock names."""
    spoil(own / ".dvc/cache" / held(own, LABELS))
    before = files(own / "data")
    assert ran(tiny.reproduce(own, warm_python)) == ["labels@music"]
    assert files(own / "data") == before
    assert tiny.command(own, "git", "status", "--porcelain").stdout == ""


EDITS = {
    "no YAML": lambda text: text.replace("stages:", "stages: [", 1),
    "a merge conflict": lambda text: text.replace("stages:", "<<<<<<< HEAD\nstages:", 1),
    "another key": lambda text: text.replace("cmd:", "command:", 1),
}


@pytest.mark.parametrize("edit", EDITS)
def test_a_lock_file_that_is_broken_is_refused(edit: str, own: Path, warm_python: Warm):
    before = files(own / "data")
    path = own / "dvc.lock"
    path.write_text(EDITS[edit](path.read_text(encoding="utf-8")), encoding="utf-8")
    done = tiny.reproduce(own, warm_python, check=False)
    assert done.returncode != 0 and "dvc.lock" in done.stderr and ran(done) == []
    assert files(own / "data") == before
    tiny.command(own, "git", "checkout", "dvc.lock")
    assert ran(tiny.reproduce(own, warm_python)) == []


def test_a_hash_in_the_lock_file_that_was_edited(own: Path, warm_python: Warm):
    """Its stage alone runs, and the lock is right again."""
    path = own / "dvc.lock"
    text = path.read_text(encoding="utf-8")
    edit_hash(own)
    assert path.read_text(encoding="utf-8") != text
    before = files(own / "data")
    done = tiny.reproduce(own, warm_python)
    assert ran(done) == ["labels@music"] and path.read_text(encoding="utf-8") == text
    assert files(own / "data") == before


def test_a_merge_conflict_in_the_lock_file(own: Path, warm_python: Warm):
    """`git checkout --theirs dvc.lock && dvc repro`: each side's finished work is taken from the record of runs."""
    tiny.command(own, "git", "checkout", "-q", "-b", "theirs")
    tiny.edit_params(own, evaluation__bootstrap=40)
    assert ran(tiny.reproduce(own, warm_python)) == ["evaluation", "report"]
    tiny.save(own, "Theirs")
    tiny.command(own, "git", "checkout", "-q", "main")
    tiny.command(own, "dvc", "checkout")
    tiny.edit_params(own, report__examples=2)
    assert ran(tiny.reproduce(own, warm_python)) == ["report"]
    tiny.save(own, "Ours")
    merge = tiny.command(own, "git", "merge", "theirs", check=False)
    assert "CONFLICT (content): Merge conflict in dvc.lock" in merge.stdout
    tiny.command(own, "git", "checkout", "--theirs", "dvc.lock")
    done = tiny.reproduce(own, warm_python)
    assert ran(done) == ["report"]  # the one stage that saw both edits
    tiny.save(own, "Merged")
    assert ran(tiny.reproduce(own, warm_python)) == []


def test_few_files():
    """The default dataset is at most 200 files; of large stores see tests/core/data/test_gradient_store.py."""
    path = tiny.ROOT / "dvc.lock"
    outs = [out for entry in locked(tiny.ROOT).values() for out in entry["outs"]] if path.exists() else []
    assert sum(out.get("nfiles", 1) for out in outs) <= 200
