"""Changes of a model: an adapter speaks as its weights do, a text in front as a longer prompt, a vector as a hook."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PrefixTuningConfig, PromptTuningConfig, TaskType, get_peft_model
from safetensors.torch import save_file
from torch import nn

from stages.core.model.changes import preceded, read_vectors, speaker, steered, tuned
from stages.core.model.decoder import Decoder, residual, with_residual
from stages.core.run.errors import InputError
from tests.tools.families import FAMILIES, tiny

IDS = torch.tensor([[5, 9, 3, 17], [8, 6, 2, 2]])


def fresh() -> Decoder:
    return tiny(FAMILIES["olmo-2-7b"])


@pytest.fixture(scope="module")
def decoder() -> Decoder:
    return fresh()


def adapter(folder: Path, settings: object, of: Callable[[], Decoder] = fresh) -> nn.Module:
    """An adapter with weights drawn at random, saved; the adapted model."""
    made = get_peft_model(of().model, settings)  # type: ignore[arg-type]
    for number, value in enumerate(each for each in made.parameters() if each.requires_grad):
        nn.init.normal_(value, generator=torch.Generator().manual_seed(number))
    made.save_pretrained(str(folder))
    return made.eval()


def lora() -> LoraConfig:
    return LoraConfig(task_type=TaskType.CAUSAL_LM, r=2, target_modules="all-linear")


@pytest.mark.parametrize(
    "settings",
    [
        lora(),
        PromptTuningConfig(task_type=TaskType.CAUSAL_LM, num_virtual_tokens=2),
        PrefixTuningConfig(task_type=TaskType.CAUSAL_LM, num_virtual_tokens=2),
    ],
    ids=["LoRA", "soft prompt", "prefix"],
)
def test_an_adapter_speaks_as_peft_has_it_and_leaves_the_model_as_it_was(
    decoder: Decoder, tmp_path: Path, settings: object
):
    made, before = adapter(tmp_path, settings), speaker(decoder.model)(IDS)
    with torch.no_grad():
        wanted = made(input_ids=IDS).logits[:, -IDS.shape[1] :]
    found = tuned(decoder, str(tmp_path), fresh)(IDS)
    torch.testing.assert_close(found, wanted)
    assert not torch.allclose(found, before, atol=1e-3) and torch.equal(speaker(decoder.model)(IDS), before)


def test_a_folder_of_a_tuned_model_speaks_as_that_model(decoder: Decoder, tmp_path: Path):
    other = fresh()
    next(other.embedding.parameters()).data += 0.1
    other.model.save_pretrained(tmp_path)
    assert other.tokenizer is not None
    other.tokenizer.save_pretrained(tmp_path)
    torch.testing.assert_close(tuned(decoder, str(tmp_path), fresh)(IDS), speaker(other.model)(IDS))


def test_adapters_and_models_that_do_not_fit_are_refused(decoder: Decoder, tmp_path: Path):
    adapter(tmp_path / "other", lora(), lambda: tiny(FAMILIES["pythia"]))
    with pytest.raises(InputError, match="other: not an adapter of the model under study"):
        tuned(decoder, str(tmp_path / "other"), fresh)
    adapter(tmp_path / "bare", lora())
    (tmp_path / "bare/adapter_model.safetensors").unlink()
    with pytest.raises(InputError, match=r"found no adapter_model\.safetensors"):
        tuned(decoder, str(tmp_path / "bare"), fresh)
    other = tiny(FAMILIES["pythia"])
    assert other.tokenizer is not None
    other.model.save_pretrained(tmp_path / "pythia")
    other.tokenizer.save_pretrained(tmp_path / "pythia")
    with pytest.raises(InputError, match="found a model with other tokens"):
        tuned(decoder, str(tmp_path / "pythia"), fresh)
    with pytest.raises(InputError, match="found no causal language model"):
        tuned(decoder, str(tmp_path), fresh)


def test_a_steering_vector_is_added_at_every_position_after_its_block(decoder: Decoder, tmp_path: Path):
    vector = torch.randn(decoder.d_model, generator=torch.Generator().manual_seed(0))
    save_file({"1": vector}, tmp_path / "vector.safetensors")
    found = steered(decoder, read_vectors(decoder, tmp_path / "vector.safetensors"))(IDS)
    hook = decoder.blocks[1].register_forward_hook(
        lambda _module, _given, output: with_residual(output, residual(output) + vector)
    )
    wanted = speaker(decoder.model)(IDS)
    hook.remove()
    torch.testing.assert_close(found, wanted)
    assert not torch.allclose(speaker(decoder.model)(IDS), wanted, atol=1e-3)


@pytest.mark.parametrize(
    ("tensors", "told"),
    [
        ({"one": torch.zeros(32)}, "found 'one'"),
        ({"1": torch.zeros(7)}, r"shape \[7\], wanted the number of a block"),
        ({"99": torch.zeros(32)}, "found 99, wanted 0 to"),
        ({}, "found no tensor"),
    ],
)
def test_vectors_that_do_not_fit_are_refused(
    decoder: Decoder, tmp_path: Path, tensors: dict[str, torch.Tensor], told: str
):
    wide = {name: each.new_zeros(decoder.d_model) if len(each) == 32 else each for name, each in tensors.items()}
    save_file(wide, tmp_path / "vectors.safetensors")
    with pytest.raises(InputError, match=told):
        read_vectors(decoder, tmp_path / "vectors.safetensors")
    with pytest.raises(InputError, match="not readable, wanted safetensors"):
        read_vectors(decoder, tmp_path / "none.safetensors")


@pytest.mark.parametrize("family", ["olmo-2-7b", "gemma-3-4b-it"], ids=["no BOS", "BOS"])
def test_a_text_in_front_is_a_longer_prompt_with_one_token_that_starts_it(family: str):
    decoder = tiny(FAMILIES[family])
    prompt, context = decoder.tokens("Where?"), decoder.tokens("It is here. ")
    found = preceded(decoder, "It is here. ")(torch.tensor([prompt]))
    wanted = speaker(decoder.model)(torch.tensor([decoder.tokens("It is here. Where?")]))
    start = {"olmo-2-7b": 0, "gemma-3-4b-it": 1}[family]
    torch.testing.assert_close(found[:, start:], wanted[:, len(context) :])


def test_a_text_in_front_that_is_empty_or_too_long_is_refused(decoder: Decoder):
    with pytest.raises(InputError, match="context: found no words"):
        preceded(decoder, "")
    with pytest.raises(InputError, match=r"context: needs \d+ tokens with a prompt, wanted at most"):
        preceded(decoder, "a" * (decoder.context_length or 0))(IDS)
