"""Tiny models of the presets' families: random weights, byte-level tokenizers with the family's special tokens, and
the families' real chat templates (what they do for one user turn; their branches for tools and images are left out).
"""

from dataclasses import dataclass
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from stages.core.model.decoder import Decoder
from stages.core.reader.reader import Reader
from stages.core.reader.training import new_card
from tests.core.reader.teaching import settings

QWEN = """\
{%- if messages[0].role == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if message.content is string %}
        {%- set content = message.content %}
    {%- else %}
        {%- set content = '' %}
    {%- endif %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>' + '\\n' }}
    {%- elif message.role == "assistant" %}
        {{- '<|im_start|>' + message.role + '\\n' + content }}
        {{- '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}"""

LLAMA = """\
{{- bos_token }}
{%- if not date_string is defined %}
    {%- set date_string = "26 Jul 2024" %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{{- "Cutting Knowledge Date: December 2023\\n" }}
{{- "Today Date: " + date_string + "\\n\\n" }}
{{- system_message }}
{{- "<|eot_id|>" }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'+ message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""

GEMMA = """\
{{ bos_token }}
{%- if messages[0]['role'] == 'system' -%}
    {%- set first_user_prefix = messages[0]['content'] + '\\n\\n' -%}
    {%- set loop_messages = messages[1:] -%}
{%- else -%}
    {%- set first_user_prefix = "" -%}
    {%- set loop_messages = messages -%}
{%- endif -%}
{%- for message in loop_messages -%}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}
        {{ raise_exception("Conversation roles must alternate user/assistant/user/assistant/...") }}
    {%- endif -%}
    {%- if (message['role'] == 'assistant') -%}
        {%- set role = "model" -%}
    {%- else -%}
        {%- set role = message['role'] -%}
    {%- endif -%}
    {{ '<start_of_turn>' + role + '\\n' + (first_user_prefix if loop.first else "") }}
    {%- if message['content'] is string -%}
        {{ message['content'] | trim }}
    {%- else -%}
        {{ raise_exception("Invalid content type") }}
    {%- endif -%}
    {{ '<end_of_turn>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{'<start_of_turn>model\\n'}}
{%- endif -%}
"""

OLMO = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'system' %}{{ '<|system|>\\n' + "
    "message['content'] + '\\n' }}{% elif message['role'] == 'user' %}{{ '<|user|>\\n' + message['content'] + '\\n' }}"
    "{% elif message['role'] == 'assistant' %}{% if not loop.last %}{{ '<|assistant|>\\n'  + message['content'] + "
    "eos_token + '\\n' }}{% else %}{{ '<|assistant|>\\n'  + message['content'] + eos_token }}{% endif %}{% endif %}"
    "{% if loop.last and add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}{% endfor %}"
)

TEXT: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.15,
}
WINDOW = {"head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 16, "tie_word_embeddings": True}
VISION = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}


@dataclass(frozen=True)
class Family:
    """A preset's family. `bos`: what every text begins with, "" for none. `adds_bos`: the tokenizer writes it."""

    kind: str
    template: str | None
    special: tuple[str, ...]
    eos: str
    bos: str = ""
    adds_bos: bool = False
    settings: tuple[tuple[str, Any], ...] = ()


FAMILIES = {
    "qwen3-4b-instruct": Family(
        "qwen3",
        QWEN,
        ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|fim_prefix|>", "<|fim_pad|>"),
        eos="<|im_end|>",
        settings=(("head_dim", 8), ("tie_word_embeddings", True)),
    ),
    "llama-3.1-8b-instruct": Family(
        "llama",
        LLAMA,
        ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|reserved_special_token_0|>"),
        eos="<|eot_id|>",
        bos="<|begin_of_text|>",
        adds_bos=True,
    ),
    "gemma-3-4b-it": Family(
        "gemma3",
        GEMMA,
        ("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>", "<unused0>", "<unused1>"),
        eos="<end_of_turn>",
        bos="<bos>",
        adds_bos=True,
        settings=tuple(WINDOW.items()),
    ),
    "olmo-2-7b": Family(
        "olmo2",
        OLMO,
        ("<|endoftext|>", "<|fim_prefix|>", "<|fim_middle|>", "<|pad|>"),
        eos="<|endoftext|>",
        bos="<|endoftext|>",
    ),
    "pythia": Family("gpt_neox", None, ("<|endoftext|>", "<|padding|>"), eos="<|endoftext|>"),
}
"""By preset."""


def tokenizer_of(family: Family) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer without merges: one token a byte, and the family's special tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: index for index, letter in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # type: ignore[assignment]
    tokenizer.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in family.special])
    if family.adds_bos:
        tokenizer.post_processor = processors.TemplateProcessing(  # type: ignore[assignment]
            single=f"{family.bos} $A", special_tokens=[(family.bos, tokenizer.token_to_id(family.bos))]
        )
    names = {"bos_token": family.bos} if family.bos else {}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=family.eos, chat_template=family.template, **names
    )


def tiny(family: Family, dtype: torch.dtype = torch.float32) -> Decoder:
    """A tiny model of the family with its tokenizer."""
    tokenizer = tokenizer_of(family)
    text = {**TEXT, "vocab_size": len(tokenizer) + 3, "eos_token_id": tokenizer.eos_token_id, **dict(family.settings)}
    if family.kind == "gemma3":
        vision = {**VISION, "image_size": 28, "patch_size": 14}
        config = AutoConfig.for_model("gemma3", text_config=text, vision_config=vision, mm_tokens_per_image=4)
    else:
        config = AutoConfig.for_model(family.kind, **text)
    torch.manual_seed(0)
    return Decoder(AutoModelForCausalLM.from_config(config).to(dtype).eval(), tokenizer)


def untrained(
    decoder: Decoder,
    slot_token: str,
    layers: tuple[int, ...] = (1,),
    model: str = "tiny",
    places: tuple[str, ...] = ("target_1",),
    question: str = "<felt> away <opposite> what pressure do you feel ?",
) -> Reader:
    """A reader with an untrained projector."""
    wanted = settings(
        architecture="linear", width=8, layers=list(layers), places=list(places), question=question, chat=True,
        slot_token=slot_token,
    )  # fmt: skip
    card = new_card(decoder, wanted, model, "0" * 40, (2.0,) * len(layers))
    return Reader(decoder, card, seed=0)
