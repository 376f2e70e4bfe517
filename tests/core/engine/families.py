"""Decoder families at tiny size, with random weights large enough that attention matters.

The last four are besides those that were asked for: they take the same generic path.
"""

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from stages.core.model.decoder import Decoder

VOCABULARY = 61
COMMON: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.15,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
WINDOW = {"sliding_window": 4}
ALTERNATING = {"layer_types": ["sliding_attention", "full_attention"] * 2, **WINDOW}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": WINDOW,
    "qwen2": {},
    "qwen3": {"head_dim": 8, "tie_word_embeddings": True},
    "qwen3_moe": {"head_dim": 8, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24},
    "gemma2": {"head_dim": 8, "query_pre_attn_scalar": 8, "final_logit_softcapping": 3.0, **ALTERNATING},
    "gemma3_text": {"head_dim": 8, "query_pre_attn_scalar": 8, **ALTERNATING},
    "phi3": {},
    "gpt2": {"n_inner": 48},
    "gpt_neox": {},
    "olmo2": {},
    "granite": {"logits_scaling": 4.0},
    "cohere": {"logit_scale": 0.25},
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": 32},
    "stablelm": {},
}


def tiny_model(family: str, dtype: torch.dtype = torch.float32, **changes: Any) -> PreTrainedModel:
    """A model of a family with weights from a fixed seed; norms and biases are moved off their trivial start."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **{**COMMON, **FAMILIES[family], **changes})
    model = AutoModelForCausalLM.from_config(config).to(dtype).eval()
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        if parameter.ndim == 1:
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator).to(dtype)
    return model


def tiny(family: str, dtype: torch.dtype = torch.float32, **changes: Any) -> Decoder:
    """The same as a decoder without a tokenizer."""
    return Decoder(tiny_model(family, dtype, **changes))
