import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from torch import nn
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, PreTrainedTokenizerFast

from stages.core.model.decoder import Decoder, residual
from tests.core.engine.families import FAMILIES, VOCABULARY, tiny, tiny_model


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


@pytest.mark.parametrize("family", FAMILIES)
def test_norm_and_head_on_the_last_block_give_the_models_logits(family: str) -> None:
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


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A folder with a tiny model and its tokenizer."""
    tiny_model("qwen3").save_pretrained(tmp_path)
    words().save_pretrained(tmp_path)
    return tmp_path


def test_load_reads_back_what_was_saved(saved: Path) -> None:
    model = tiny_model("qwen3")
    decoder = Decoder.load(saved, dtype=torch.float64)
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
    ("settings", "method"),
    [
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "bitsandbytes"),
        ({"load_in_8bit": True}, "bitsandbytes"),
        ({"quant_method": "gptq", "bits": 4}, "gptq"),
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, "fp8"),
        ({"quant_method": "mxfp4"}, "mxfp4"),
    ],
)
def test_a_quantised_model_is_refused_by_name_before_its_weights_are_read(
    settings: dict[str, Any], method: str, saved: Path
) -> None:
    (saved / "model.safetensors").write_bytes(b"not read")
    config = json.loads((saved / "config.json").read_text(encoding="utf-8"))
    (saved / "config.json").write_text(json.dumps({**config, "quantization_config": settings}), encoding="utf-8")
    with pytest.raises(
        ValueError, match=rf"model: {saved}: found a quantised model \({method}\), wanted parameters in"
    ):
        Decoder.load(saved)


def test_a_model_that_was_quantised_by_its_owner_is_refused_by_name() -> None:
    model = tiny_model("qwen3")
    model.config.quantization_config = BitsAndBytesConfig(load_in_8bit=True)
    with pytest.raises(ValueError, match=r"Qwen3ForCausalLM: found a quantised model \(bitsandbytes\)"):
        Decoder(model)


@pytest.mark.parametrize(
    ("device_map", "places"),
    [({"": "disk"}, "meta"), ({"model": "cpu", "lm_head": "disk"}, "cpu, disk")],
)
def test_a_model_on_several_devices_or_none_is_refused_by_name(
    device_map: dict[str, str], places: str, saved: Path
) -> None:
    model = AutoModelForCausalLM.from_pretrained(saved, device_map=device_map, offload_folder=saved / "offloaded")
    with pytest.raises(ValueError, match=f"Qwen3ForCausalLM: found device_map with parts on {places}, wanted all on"):
        Decoder(model)
    assert Decoder(AutoModelForCausalLM.from_pretrained(saved, device_map={"": "cpu"})).device == torch.device("cpu")


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
