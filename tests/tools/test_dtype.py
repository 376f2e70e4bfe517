"""model.dtype: the model stage writes it into the model's card, and every stage that opens the model goes by it."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from ruamel.yaml import YAML

from stages.core.data.gradient_store import open_store
from stages.core.model.opening import card_of, open_model, read_card
from stages.core.model.section import Model
from stages.core.model.sources import check_model
from stages.core.reader.reports import answers_of, prompts_of, read_slots
from stages.tools.preset import read_preset
from tests.core.engine.families import tiny as tiny_decoder
from tests.pipeline import tiny
from tests.pipeline.warm import Warm
from tests.tools.families import FAMILIES, untrained
from tests.tools.families import tiny as tiny_family

MEDIAN, WORST = 0.03, 0.99
"""Of gradients in bfloat16: median relative error, and least cosine to the float32 gradient."""
DOMAIN = "geography"


@pytest.fixture(scope="module")
def narrow(tiny_pipeline: Path, tmp_path_factory: pytest.TempPathFactory, warm_python: Warm) -> Path:
    """The tiny pipeline with model.dtype bfloat16: model, gradients and virtual steps of one domain run."""
    root = tiny.copied(tiny_pipeline, tmp_path_factory.mktemp("narrow") / "repository")
    tiny.edit_params(root, model__dtype="bfloat16")
    warm_python.run(root, "model")
    for stage in ("gradients", "virtual_step"):
        warm_python.run(root, stage, DOMAIN)
    return root


def test_gradients_in_bfloat16_are_those_in_float32_within_a_tolerance(narrow: Path, tiny_pipeline: Path):
    ids = pl.read_parquet(tiny_pipeline / f"data/prompts/{DOMAIN}.parquet")["prompt_id"].to_list()
    wide, found = (open_store(root / f"data/gradients/{DOMAIN}.zarr", ids) for root in (tiny_pipeline, narrow))
    assert (wide.attributes["precision"], found.attributes["precision"]) == ("float32", "bfloat16")
    missing = (wide.read("gradient") == 0).all(-1)
    np.testing.assert_array_equal((found.read("gradient") == 0).all(-1), missing)
    gradient, exact = found.read("gradient")[~missing], wide.read("gradient")[~missing]
    assert gradient.dtype == np.float32 and not np.array_equal(gradient, exact)
    sizes = np.linalg.norm(exact, axis=-1)
    error = np.linalg.norm(gradient - exact, axis=-1) / sizes
    cosine = (gradient * exact).sum(-1) / sizes / np.linalg.norm(gradient, axis=-1)
    assert np.median(error) < MEDIAN and cosine.min() > WORST


def test_a_virtual_step_in_bfloat16_raises_the_same_targets(narrow: Path, tiny_pipeline: Path):
    tables = [pl.read_parquet(root / f"data/virtual_step/{DOMAIN}.parquet") for root in (tiny_pipeline, narrow)]
    wide, found = (table["target_logprob_after"] - table["target_logprob_before"] for table in tables)
    assert np.corrcoef(wide, found)[0, 1] > WORST


def test_the_weights_on_disk_stay_as_they_were_and_the_card_says_how_to_open_them(narrow: Path, tiny_pipeline: Path):
    weights = [(root / "data/model/model.safetensors").read_bytes() for root in (narrow, tiny_pipeline)]
    assert weights[0] == weights[1]
    cards = [json.loads((root / "data/model/model.json").read_text()) for root in (tiny_pipeline, narrow)]
    assert [card.pop("dtype") for card in cards] == ["float32", "bfloat16"] and cards[0] == cards[1]
    assert open_model(narrow / "data/model")[0].dtype == torch.bfloat16


def test_a_folder_is_opened_in_the_dtype_that_params_name_whatever_its_files_are_in(tmp_path: Path):
    folder, out = tmp_path / "mine", tmp_path / "model"
    decoder = tiny_family(FAMILIES["qwen3-4b-instruct"])
    decoder.model.save_pretrained(folder)
    assert decoder.tokenizer is not None
    decoder.tokenizer.save_pretrained(folder)
    out.mkdir()
    settings = YAML(typ="safe").load((tiny.ROOT / "params.yaml").read_text(encoding="utf-8"))["model"]
    card = check_model(Model.model_validate({**settings, "source": str(folder), "dtype": "bfloat16"}), out)
    assert card == read_card(out) and card.dtype == "bfloat16"
    assert open_model(out)[0].dtype == torch.bfloat16


@pytest.mark.parametrize("preset", list(FAMILIES))
def test_reading_in_bfloat16_depends_on_the_gradient_and_reports_decode(preset: str):
    slot = read_preset(preset).params["projector.slot_token"]
    reader = untrained(tiny_family(FAMILIES[preset], torch.bfloat16), slot)
    with torch.no_grad():
        slots = reader.read(torch.randn(2, 1, 32, generator=torch.Generator().manual_seed(0)))
    prompts = prompts_of(reader, [None] * 2, reader.card.question, slots)
    one, other = read_slots(reader, prompts, [()] * 2, slots)[:, -1]
    assert one.dtype == torch.bfloat16 and one.isfinite().all() and not torch.equal(one, other)
    assert len(answers_of(reader, [None] * 2, reader.card.question, slots, 8)) == 2


def test_another_dtype_is_refused_with_what_is_wanted(tmp_path: Path):
    card = card_of(tiny_decoder("gpt2"), "pocket", "pocket", "0" * 40)
    (tmp_path / "model.json").write_text(json.dumps({**card.model_dump(), "dtype": "float16"}))
    with pytest.raises(ValueError, match=r"model.json: dtype: wanted 'float32' or 'bfloat16' \(found 'float16'\)"):
        read_card(tmp_path)
    with pytest.raises(ValueError, match=r"mine: found parameters of torch.float64, wanted one of float32, bfloat16"):
        card_of(tiny_decoder("gpt2", torch.float64), "folder", "mine", "0" * 40)
