from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from torch import nn
from transformers import PreTrainedTokenizerFast

from stages.core.neural.decoder import Decoder, residual
from tests.core.neural.engine.families import FAMILIES, VOCABULARY, tiny, tiny_model

BESIDES = {
    "granite": {"logits_scaling": 4.0},
    "cohere": {"logit_scale": 0.25},
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": 32},
}


def words(*, eos_behind: bool = False) -> PreTrainedTokenizerFast:
    names = ["<pad>", "<bos>", "<eos>", "<unk>", "the", "capital", "of", "France", "is", "Paris", "New", "York"]
    tokenizer = Tokenizer(models.WordLevel({name: index for index, name in enumerate(names)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A <eos>" if eos_behind else "<bos> $A", special_tokens=[("<bos>", 1), ("<eos>", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<bos>", eos_token="<eos>", unk_token="<unk>", pad_token="<pad>"
    )


def sentence_piece() -> PreTrainedTokenizerFast:
    names = ["<unk>", "▁", "▁the", "▁Paris", "▁a", "Paris"]
    tokenizer = Tokenizer(models.WordLevel({name: index for index, name in enumerate(names)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")


@pytest.mark.parametrize("family", [*FAMILIES, *BESIDES])
def test_norm_and_head_on_the_last_block_give_the_models_logits(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if family in BESIDES:
        monkeypatch.setitem(FAMILIES, family, BESIDES[family])
    decoder = tiny(family)
    last: list[torch.Tensor] = []
    decoder.blocks[-1].register_forward_hook(lambda _module, _arguments, output: last.append(residual(output)))
    wanted = decoder.model(torch.tensor([[5, 9, 7, 4]]), use_cache=False).logits
    torch.testing.assert_close(decoder.logits(decoder.norm(last[0])), wanted, rtol=1e-5, atol=1e-5)
    assert (decoder.n_layers, decoder.d_model, decoder.vocabulary, decoder.context_length) == (4, 32, VOCABULARY, 64)


def test_every_parameter_is_frozen_and_dropout_is_off() -> None:
    model = tiny_model("gpt2", resid_pdrop=0.5).train()
    decoder = Decoder(model)
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert not decoder.model.training


@pytest.mark.parametrize("family", ["qwen3", "gemma2"])
def test_logit_difference_is_the_difference_of_logits(family: str) -> None:
    decoder = tiny(family, torch.float64)
    before, after = torch.randn(2, 5, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        decoder.logit_difference(before, after), decoder.logits(after) - decoder.logits(before), rtol=0, atol=1e-12
    )


def test_a_layer_out_of_range_is_refused_with_the_wanted_range() -> None:
    decoder = tiny("qwen3")
    assert decoder.check_layer(3) == 3
    for layer in (9, -1):
        with pytest.raises(ValueError, match=rf"gradients.layers: found {layer}, wanted 0 to 3"):
            decoder.check_layer(layer)


def test_embeddings_are_what_the_model_takes_as_inputs_embeds() -> None:
    decoder = tiny("gemma3_text")
    ids = torch.tensor([[5, 9, 7]])
    by_embedding = decoder.model(inputs_embeds=decoder.embed(ids), use_cache=False).logits
    torch.testing.assert_close(by_embedding, decoder.model(ids, use_cache=False).logits)


def test_a_prompt_begins_with_bos_and_never_ends_with_eos() -> None:
    for tokenizer in (words(), words(eos_behind=True)):
        decoder = Decoder(tiny_model("qwen3"), tokenizer)
        assert decoder.tokens("the capital of France is") == [1, 4, 5, 6, 7, 8]


def test_a_continuation_has_no_special_tokens_and_one_space() -> None:
    assert Decoder(tiny_model("qwen3"), words(eos_behind=True)).continuation("New York") == [10, 11]
    assert Decoder(tiny_model("qwen3"), sentence_piece()).continuation("Paris") == [3]


def test_text_without_a_tokenizer_is_refused() -> None:
    with pytest.raises(ValueError, match="found no tokenizer"):
        tiny("qwen3").tokens("the")


def test_load_reads_back_what_was_saved(tmp_path: Path) -> None:
    model = tiny_model("qwen3")
    model.save_pretrained(tmp_path)
    words().save_pretrained(tmp_path)
    decoder = Decoder.load(tmp_path, dtype=torch.float64)
    assert decoder.dtype == torch.float64
    assert decoder.tokens("the") == [1, 4]
    assert 2 in decoder.eos_ids()
    torch.testing.assert_close(
        decoder.embed(torch.tensor([5])).float(), model.get_input_embeddings()(torch.tensor([5]))
    )


def test_a_folder_without_a_model_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"model: {tmp_path}: found no causal language model, wanted a folder"):
        Decoder.load(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"is_quantized": True}, "found a quantised model"),
        ({"hf_device_map": {"model": "cpu", "lm_head": 0}}, "found device_map with parts on"),
        ({"hf_device_map": {"": "disk"}}, "found device_map with parts on"),
    ],
)
def test_models_that_cannot_be_measured_are_refused_by_name(changes: dict[str, Any], message: str) -> None:
    model = tiny_model("qwen3")
    for key, value in changes.items():
        setattr(model, key, value)
    with pytest.raises(ValueError, match=f"Qwen3ForCausalLM: {message}"):
        Decoder(model)


def test_float16_is_refused() -> None:
    with pytest.raises(ValueError, match=r"found parameters of .*float16"):
        Decoder(tiny_model("qwen3", torch.float16))


def test_a_model_without_attention_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FAMILIES, "rwkv", {})
    with pytest.raises(ValueError, match=r"RwkvForCausalLM: found .* wanted"):
        tiny("rwkv")


def test_a_head_that_does_more_than_is_known_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("qwen3")
    plain = model.forward
    monkeypatch.setattr(model, "forward", lambda **given: SimpleNamespace(logits=plain(**given).logits ** 3))
    with pytest.raises(ValueError, match="the logits are not its head's"):
        Decoder(model)


def test_a_model_whose_blocks_are_not_found_is_refused_with_what_was_found() -> None:
    model = tiny_model("qwen3")
    body = Decoder(model).body
    body.register_module("layers", nn.ModuleList(list(Decoder(model).blocks)[:3]))
    with pytest.raises(ValueError, match=r"found module lists layers \(3\), wanted exactly one outermost list of 4"):
        Decoder(model)
