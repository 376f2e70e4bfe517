"""Stage peers: another seed and permuted facts make other models, and a model of one's own has none."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ruamel.yaml import YAML
from transformers import AutoConfig, AutoModelForCausalLM

from stages import peers
from stages.tools.dependencies import differences
from tests.pipeline import tiny
from tests.pipeline.hermetic import files
from tests.tools import families
from tests.tools.families import FAMILIES


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
    tiny.changed(root, tiny.SOONER)
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


def test_a_model_of_one_s_own_has_no_peers_that_are_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "params.yaml").write_text((tiny.ROOT / "params.yaml").read_text(encoding="utf-8"), encoding="utf-8")
    tiny.edit_params(tmp_path, model__source="someone/model")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["peers"])
    with pytest.raises(ValueError, match=r"params.yaml: peers: found other_seed, permuted, wanted .*'someone/model'"):
        peers.main()
    assert not (tmp_path / "data").exists()


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiny repository with a model of one's own, and another model beside it."""
    root = tmp_path / "repository"
    tiny.make_repository(root)
    monkeypatch.chdir(root)
    for name, preset in (("mine", "qwen3-4b-instruct"), ("yours", "olmo-2-7b")):
        decoder = families.tiny(FAMILIES[preset])
        decoder.model.save_pretrained(root / "models" / name)
        decoder.tokenizer.save_pretrained(root / "models" / name)  # type: ignore[union-attr]
    tiny.edit_params(root, model__source="models/mine")
    monkeypatch.setattr("sys.argv", ["peers"])
    return root


def other(root: Path, **changes: object) -> None:
    """Names the other model as a peer, and runs the stage."""
    settings = {"source": "models/yours", "revision": None, "slot_token": "<|fim_middle|>"}
    tiny.edit_params(root, peers={"foreign": settings | changes})
    differences(root, write=True)
    peers.main()


def test_another_model_is_checked_and_needs_no_training(own: Path):
    other(own)
    assert [path.name for path in (own / "data/peers").rglob("*") if path.is_file()] == ["model.json"]
    card = json.loads((own / "data/peers/foreign/model.json").read_text())
    assert card["id"] == "models/yours" and card["source"] == "folder" and len(card["commit"]) == 40
    stages = YAML(typ="safe").load((own / "dvc.yaml").read_text())["stages"]
    assert all("models/yours" in stages[name]["deps"] for name in ("peers", "evaluation"))
    assert "models/mine" in stages["peers"]["deps"] and "models/yours" not in stages["projector"]["deps"]


def test_another_model_of_another_width_and_a_missing_folder_are_refused(own: Path):
    config = json.loads((own / "models/yours/config.json").read_text())
    wider = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config | {"hidden_size": 64}))
    wider.save_pretrained(own / "models/yours")
    with pytest.raises(ValueError, match=r"peers.foreign.source: found models/yours, 64 wide, wanted .* 32 wide"):
        other(own)
    with pytest.raises(ValueError, match=r"params.yaml: peers.foreign.source: no folder ./nowhere"):
        other(own, source="./nowhere")
    assert not (own / "data/peers").exists()
