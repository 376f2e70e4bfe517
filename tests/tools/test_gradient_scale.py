"""The callback is the context manager, from the beginning to the end of a training, of a model that it fits."""

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import pytest
import torch
from transformers import Trainer, TrainingArguments

from stages.core.concepts.directions import random
from stages.core.concepts.scaling import Bases, scaled_gradients
from stages.core.model.decoder import Decoder
from stages.tools.gradient_scale import GradientScale
from tests.core.engine.families import tiny, tiny_model

BASES = [random(8, 32, layer) for layer in range(4)]
ROWS = [{"input_ids": torch.tensor([row, 6, 7, 8]), "labels": torch.tensor([-100, -100, 7, 8])} for row in range(9, 17)]


def trained(
    tmp_path: Path,
    callbacks: list[GradientScale],
    within: AbstractContextManager[None] | None = None,
    model: Decoder | None = None,
) -> list[torch.Tensor]:
    learning = (model or tiny("qwen3")).model.requires_grad_(True)
    arguments = TrainingArguments(
        output_dir=str(tmp_path), max_steps=3, per_device_train_batch_size=4, report_to=[], save_strategy="no",
        use_cpu=True, disable_tqdm=True, seed=0,
    )  # fmt: skip
    with within or nullcontext():
        Trainer(learning, arguments, train_dataset=ROWS, callbacks=callbacks).train()  # type: ignore[arg-type]
    assert not any(block._forward_hooks for block in learning.model.layers)  # type: ignore[union-attr]
    return [value.detach() for value in learning.parameters()]


def same(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return all(torch.equal(*pair) for pair in zip(one, other, strict=True))


def test_the_callback_is_the_context_manager(tmp_path: Path):
    decoder = tiny("qwen3")
    by_callback = trained(tmp_path, [GradientScale(tiny("qwen3"), BASES, 0.0)])
    by_context = trained(tmp_path, [], scaled_gradients(decoder.blocks, BASES, 0.0), decoder)
    assert same(by_callback, by_context)
    plain = trained(tmp_path, [])
    assert not same(by_callback, plain)
    assert same(trained(tmp_path, [GradientScale(tiny("qwen3"), BASES, 1.0)]), plain)


@pytest.mark.parametrize("bases, said", [(random(2, 16, 0), "width 16, wanted 32"), (BASES[:2], "found 2, wanted one")])
def test_bases_of_another_width_or_depth_are_refused(bases: Bases, said: str):
    with pytest.raises(ValueError, match=said):
        GradientScale(tiny("qwen3"), bases)


def test_a_negative_alpha_and_a_model_of_another_width_or_architecture_are_refused(tmp_path: Path):
    with pytest.raises(ValueError, match=r"alpha: found -1\.0, wanted 0 or more"):
        trained(tmp_path, [GradientScale(tiny("qwen3"), BASES, -1.0)])
    other = Decoder(tiny_model("qwen3", hidden_size=16))
    for model, found in (
        (tiny("llama"), "found a LlamaForCausalLM of width 32"),
        (other, "Qwen3ForCausalLM of width 16"),
    ):
        with pytest.raises(ValueError, match=found):
            trained(tmp_path, [GradientScale(tiny("qwen3"), BASES)], model=model)
