"""Stage peers: another seed and permuted facts make other models, and a model of one's own has none."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from stages import peers
from tests.pipeline import tiny
from tests.pipeline.hermetic import files


def test_peers_are_models_of_their_own_in_the_form_of_the_first(tiny_pipeline: Path):
    first = json.loads((tiny_pipeline / "data/model/model.json").read_text())
    cards = {}
    for name in ("permuted",):
        folder = tiny_pipeline / "data/peers" / name
        assert files(folder).keys() == files(tiny_pipeline / "data/model").keys() - set(peers.UNREAD)
        cards[name] = json.loads((folder / "model.json").read_text())
        assert cards[name]["d_model"] == first["d_model"] and cards[name]["id"] == name
        tokenizer = (folder / "tokenizer.json").read_bytes()
        assert tokenizer == (tiny_pipeline / "data/model/tokenizer.json").read_bytes()
    assert len({card["commit"] for card in [first, *cards.values()]}) == 2


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A tiny repository with two peers to be trained, for far longer than a test takes."""
    root = tmp_path / "repository"
    tiny.make_repository(root)
    tiny.edit_params(root, peers={**tiny.PEERS, "other_seed": {**tiny.PEERS["permuted"], "permuted": False}})
    tiny.edit_params(root, model__pocket__steps=100_000)
    return root


def start(root: Path) -> subprocess.Popen[str]:
    """The stage, just started."""
    return subprocess.Popen(
        [sys.executable, "-m", "stages.peers"], cwd=root, env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_an_error_of_every_peer_ends_the_stage_with_its_line(repository: Path):
    """No process that has failed is waited for: here both fail at once."""
    tiny.edit_params(repository, held_out__kinds=["star"])
    _, said = start(repository).communicate(timeout=tiny.LONGEST)
    assert "error: params.yaml: held_out.kinds: found 'star'" in said


def test_no_process_goes_on_training_when_the_stage_is_killed(repository: Path):
    stage = start(repository)
    try:
        deadline, folder = time.monotonic() + tiny.LONGEST, repository / ".scratch/peers"
        while len(list(folder.glob("*/*.pt"))) < len(tiny.PEERS) + 1:  # all train, and have kept a state
            assert stage.poll() is None and time.monotonic() < deadline
            time.sleep(0.1)
        children = Path(f"/proc/{stage.pid}/task/{stage.pid}/children").read_text().split()
        assert len(children) > len(tiny.PEERS)
    finally:
        stage.kill()
        stage.communicate()
    while any(Path(f"/proc/{child}").exists() for child in children):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_model_of_one_s_own_has_no_peers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "params.yaml").write_text((tiny.ROOT / "params.yaml").read_text(encoding="utf-8"), encoding="utf-8")
    tiny.edit_params(tmp_path, model__source="someone/model")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["peers"])
    with pytest.raises(ValueError, match=r"params.yaml: peers: found other_seed, permuted, wanted .*'someone/model'"):
        peers.main()
    assert not (tmp_path / "data").exists()
