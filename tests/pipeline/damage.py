"""What befalls data and its record: objects damaged and lost, here and on the remote, and hashes edited."""

import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import fsspec

from tests.pipeline.hermetic import locked
from tests.pipeline.remotes import Remote

LABELS = "data/labels/music.parquet"


def held(root: Path, path: str) -> str:
    """Where, within a cache or shared data, the object of an output lies."""
    out = next(out for entry in locked(root).values() for out in entry["outs"] if out["path"] == path)
    return f"files/md5/{out['md5'][:2]}/{out['md5'][2:]}"


def spoil(path: Path) -> bytes:
    """Writes rubbish over the end of a file; returns what was there."""
    good = path.read_bytes()
    path.chmod(0o644)
    path.write_bytes(good[:-4] + b"SPAM")
    return good


def ran(done: subprocess.CompletedProcess[str]) -> list[str]:
    """The stages that `dvc repro` ran."""
    return re.findall(r"^Running stage '(.*)':$", done.stdout, re.MULTILINE)


def edit_hash(root: Path) -> None:
    """Exchanges the hash of an output in dvc.lock for another."""
    path = root / "dvc.lock"
    true = next(out for out in locked(root)["labels@music"]["outs"] if out["path"] == LABELS)["md5"]
    start = f"{LABELS}\n      hash: md5\n      md5: "
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace(start + true, start + true[::-1], 1), encoding="utf-8")


def lose(root: Path) -> None:
    """Removes an output, and its object in the cache."""
    (root / ".dvc/cache" / held(root, LABELS)).unlink()
    (root / LABELS).unlink()


@contextmanager
def replaced(remote: Remote, name: str, content: bytes | None) -> Iterator[bytes]:
    """An object of shared data is gone meanwhile, or holds other content; yields what it was."""
    settings = {
        "key": remote.environment.get("AWS_ACCESS_KEY_ID"),
        "secret": remote.environment.get("AWS_SECRET_ACCESS_KEY"),
        "endpoint_url": remote.settings.get("endpointurl"),
    }
    store = fsspec.filesystem("s3", **settings) if remote.settings else fsspec.filesystem("file")
    path = f"{remote.url}/{name}"
    good = store.cat_file(path)
    store.rm_file(path)
    try:
        if content is not None:
            store.pipe_file(path, content)
        yield good
    finally:
        store.pipe_file(path, good)
