"""Stage peers: another seed and permuted facts make other models, and a model of one's own has none."""

import json
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


def test_a_model_of_one_s_own_has_no_peers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "params.yaml").write_text((tiny.ROOT / "params.yaml").read_text(encoding="utf-8"), encoding="utf-8")
    tiny.edit_params(tmp_path, model__source="someone/model")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["peers"])
    with pytest.raises(ValueError, match=r"params.yaml: peers: found other_seed, permuted, wanted .*'someone/model'"):
        peers.main()
    assert not (tmp_path / "data").exists()
