"""Training that is watched is unchanged, and the reports come from the gradient of the very step that is made."""

import sys
from pathlib import Path

import polars as pl
import pytest
import torch
from transformers import Trainer, TrainingArguments

import stages
from stages.core.engine.gradients import activation_gradients
from stages.core.engine.samples import Sample
from stages.core.model.opening import open_model
from stages.core.reader.card import read_projector_card
from stages.core.run.files import file_hash
from stages.tools.watch import GradientWatch, positions, starts
from tests.pipeline import tiny
from tests.tools.documented import blocks


def rows(decoder, facts: list[tuple[str, str]]) -> list[dict[str, list[int]]]:
    found = []
    for prompt, target in facts:
        ids, wanted = decoder.tokens(prompt), decoder.continuation(target)
        found.append({"input_ids": ids + wanted, "labels": [-100] * len(ids) + wanted})
    return found


def padded(batch: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
    width = max(len(row["input_ids"]) for row in batch)
    fill = {"input_ids": 0, "labels": -100}
    return {
        name: torch.tensor([row[name] + [value] * (width - len(row[name])) for row in batch])
        for name, value in fill.items()
    }


def trained(folder: Path, tmp_path: Path, watch: GradientWatch | None) -> list[torch.Tensor]:
    decoder, _ = open_model(folder / "data/model")
    prompts = pl.read_parquet(next((folder / "data/prompts").glob("*.parquet"))).filter(kind="counterfactual").head(8)
    data = rows(decoder, list(prompts.select("prompt", "target").iter_rows()))
    model = decoder.model.requires_grad_(True).train()
    arguments = TrainingArguments(
        output_dir=str(tmp_path), max_steps=3, per_device_train_batch_size=4, report_to=[], save_strategy="no",
        use_cpu=True, disable_tqdm=True, seed=0, remove_unused_columns=False,
    )  # fmt: skip
    callbacks = [] if watch is None else [watch]
    Trainer(model, arguments, train_dataset=data, data_collator=padded, callbacks=callbacks).train()  # type: ignore[arg-type]
    return [value.detach().clone() for value in model.parameters()]


def test_watching_changes_no_weight_and_records_every_step(
    tiny_pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tiny_pipeline)
    watch = GradientWatch(every=1, output=tmp_path / "watch.parquet", data=tiny_pipeline / "data")
    watched = trained(tiny_pipeline, tmp_path, watch)
    alone = trained(tiny_pipeline, tmp_path, None)
    assert all(torch.equal(one, other) for one, other in zip(watched, alone, strict=True))
    table = pl.read_parquet(tmp_path / "watch.parquet")
    assert table["step"].unique(maintain_order=True).to_list() == [0, 1, 2]
    assert len(table) == 12 and (table["report"] != "").all()


def test_the_gradient_is_read_right_before_the_first_label() -> None:
    labels = torch.tensor([[-100, -100, 5, 6], [-100, 7, -100, -100], [-100, -100, -100, -100], [9, 8, -100, -100]])
    at, taught = starts(labels)
    assert taught == [0, 1] and at[:2].tolist() == [1, 0]
    assert positions(labels)[taught].tolist() == [[1], [0]]
    assert positions(labels, ["target_2", "target_1"])[taught].tolist() == [[2, 1], [-1, 0]]


def test_without_a_projector_it_refuses(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"model\.json"):
        GradientWatch(every=1, data=tmp_path)


@pytest.mark.parametrize("taught", ["target", "answer"])
def test_what_is_read_at_step_0_is_the_gradient_of_the_untouched_model(
    taught: str,
    tiny_pipeline: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """In the documented example."""
    monkeypatch.chdir(tiny.copied(tiny_pipeline, tmp_path / "repository"))
    monkeypatch.setitem(sys.modules, "gradaware", stages)  # as which this tree is installed
    weights = file_hash(Path("data/model/model.safetensors"))
    example = blocks("watching.md", "python")[-1]
    example = example.replace('domain, taught = "geography", "target"', f'domain, taught = "music", "{taught}"')
    exec(example.replace("steps, rows, rate = 12,", "steps, rows, rate = 3,"), {})
    assert file_hash(Path("data/model/model.safetensors")) == weights
    decoder, _ = open_model()
    layers = read_projector_card(Path("data/projector")).layers
    table = pl.read_parquet(f".cache/watch/{taught}.parquet")
    assert table["step"].unique(maintain_order=True).to_list() == [0, 1, 2] and len(table) > 3
    prompts = pl.read_parquet("data/prompts/music.parquet")
    assert set(table["prompt"]) <= set(prompts["prompt"]) and set(table["target"]) <= set(prompts[taught])
    for row in table.filter(step=0).rows(named=True):
        sample = Sample(tuple(decoder.tokens(row["prompt"])), tuple(decoder.continuation(row["target"])))
        found = next(activation_gradients(decoder, [sample], layers))
        assert row["loss"] == pytest.approx(-float(found.target_logprob[0]), rel=1e-4)
        assert row["gradient_norm"] == pytest.approx(float(abs(found.gradient[0, 0] ** 2).sum() ** 0.5), rel=1e-3)
        assert row["says"] == decoder.tokenizer.decode([int(found.top_token[0])]).strip()  # type: ignore[union-attr]
    assert "gradient_norm" in capsys.readouterr().out
