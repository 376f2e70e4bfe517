import json
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from stages.core.data.tables import PROMPTS, write_table
from stages.core.model.decoder import Decoder
from stages.core.model.opening import card_of
from stages.core.run.files import write_json
from stages.tools import real_step
from tests.core.engine import reference
from tests.core.engine.families import VOCABULARY, tiny, tiny_model
from tests.core.model.test_decoder import words


def test_small_steps_agree_and_the_slope_is_minus_the_gradients_norm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(real_step, "TOP", 8)
    decoder, told = tiny("gpt2", torch.float64), []
    samples = reference.draw(6, VOCABULARY)
    curve, metrics = real_step.compare(decoder, samples, told.append)
    assert sum(told) == 6
    assert len(curve) == 2 * len(real_step.UPDATES) * 4 * len(real_step.STEP_SIZES)
    assert curve["correlation"].is_between(-1, 1).all()
    assert curve["sign_agreement"].is_between(0, 1).all()
    for optimiser in ("sgd", "adam"):
        found = metrics["agreement"][optimiser]
        assert found["best"]["correlation"] > max(0.3, 2 * abs(found["best"]["correlation_chance"]))
        good = curve.filter(pl.col("correlation") >= 0.5, pl.col("sign_agreement") >= 0.8, optimiser=optimiser)
        for layer, ranges in found["step_sizes"].items():
            for update, ends in ranges.items():
                sizes = good.filter(layer=int(layer), update=float(update))["step_size"]
                assert ends == [sizes.min(), sizes.max()]
        assert sum(map(len, found["step_sizes"].values())) == len(good.unique(["layer", "update"]))
    for slope in metrics["slope"].values():
        assert slope["finite_difference"] == pytest.approx(slope["minus_gradient_norm"], rel=1e-2)
        assert slope["median_relative_error"] < 1e-2


@pytest.mark.parametrize("optimiser", ["sgd", "adam"])
def test_the_weights_move_by_the_size_asked_for_lower_the_loss_and_are_put_back(optimiser: str) -> None:
    decoder, sample = tiny("qwen3"), reference.draw(1, VOCABULARY)[0]
    before = [parameter.detach().clone() for parameter in decoder.model.parameters()]
    loss = float(real_step.sample_loss(decoder, sample).detach())
    with real_step.trainable(decoder.model) as put_back:
        for size, _ in zip(real_step.UPDATES, real_step.real_shifts(decoder, sample, optimiser, put_back), strict=True):
            moved = sum(
                float((now.detach() - then).square().sum())
                for now, then in zip(decoder.model.parameters(), before, strict=True)
            )
            weights = sum(float(then.square().sum()) for then in before)
            assert (moved / weights) ** 0.5 == pytest.approx(size, rel=0.02)
            assert float(real_step.sample_loss(decoder, sample).detach()) < loss
    assert all(torch.equal(*pair) for pair in zip(decoder.model.parameters(), before, strict=True))
    assert not any(parameter.requires_grad for parameter in decoder.model.parameters())


def test_agreement_is_over_the_tokens_that_the_real_step_shifts_most(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(real_step, "TOP", 2)
    real = np.array([3.0, 2.0, 0.0, 0.0, -2.0, -3.0], dtype=np.float32)
    same, unlike = 0.1 * real, -real
    same[2:4], unlike[2:4] = 99, -99
    correlation, signs = real_step.agreement(real, np.stack([same, unlike])[:, None])
    np.testing.assert_allclose(correlation[:, 0], [1, -1], atol=1e-6)
    assert signs[:, 0].tolist() == [1, 0]


def test_the_command_writes_metrics_and_a_curve_twice_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["real_step", "--samples", "3"])
    (tmp_path / "params.yaml").write_text("domains: [places, more]\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"data/prompts/places.parquet: no such file"):
        real_step.main()
    folder, model = tmp_path / "data/model", tiny_model("qwen3", vocab_size=12)
    model.save_pretrained(folder)
    words().save_pretrained(folder)
    write_json(folder / "model.json", card_of(Decoder(model, words()), "pocket", "pocket", "0" * 40).model_dump())
    rows = [
        {**dict.fromkeys(PROMPTS, "x"), "prompt_id": f"{row:016x}", "prompt": prompt, "answer": None, "target": "Paris"}
        for row, prompt in enumerate(["the capital", "the capital of", "capital of France", "France is", "is the"])
    ]
    (tmp_path / "data/prompts").mkdir()
    write_table(tmp_path / "data/prompts/places.parquet", pl.DataFrame(rows[:3], schema=PROMPTS), PROMPTS)
    write_table(tmp_path / "data/prompts/more.parquet", pl.DataFrame(rows[3:], schema=PROMPTS), PROMPTS)
    monkeypatch.setattr(real_step, "TOP", 3)
    with monkeypatch.context() as patch, pytest.raises(ValueError, match="--samples: found 1, wanted 2 or more"):
        patch.setattr("sys.argv", ["real_step", "--samples", "1"])
        real_step.main()
    real_step.main()
    first = {path.name: path.read_bytes() for path in (tmp_path / "data/real_step").iterdir()}
    assert set(first) == {"metrics.json", "curve.csv"}
    assert json.loads(first["metrics.json"])["samples"] == 3
    assert "sgd: best correlation" in capsys.readouterr().out
    shutil.rmtree(tmp_path / "data/real_step")
    real_step.main()
    assert first == {path.name: path.read_bytes() for path in (tmp_path / "data/real_step").iterdir()}
