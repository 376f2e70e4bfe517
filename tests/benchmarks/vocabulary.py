"""Measures the memory that reading takes at a large vocabulary, above the model's weights and its embedding.

A Qwen3 of one block with random weights, 262 000 tokens at a width of 2 560, tied embeddings; drawn gradients go
through the lens and the words that lie nearest, some set a gate, and one training batch goes through the slot loss and
back, and through the report loss (the softmax of the head) and back. One process, one thread. Writes
tests/benchmarks/results/vocabulary-<dtype>.json and .md.

Beyond one block, the number of gradients changes the time and not the peak: they come BLOCK_ROWS at a time, as from a
store, `in_parts` takes as many of them together as LOGITS_BYTES allow (256 at this vocabulary), and what is kept of a
block is one number a gradient. So 10 000 gradients peak where 512 do; to see it, a second, larger number is taken
after the first, and what it adds to the peak is reported.

  python -m tests.benchmarks.vocabulary    float32, 512 gradients and then 1 024: a quarter of an hour and 5 GB
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from stages.core.data.gathering import BLOCK_ROWS
from stages.core.data.places import FIRST
from stages.core.evaluate.conditions import lens_tokens
from stages.core.grounding.scores import nearest
from stages.core.model.decoder import Decoder
from stages.core.reader.lessons import Draws
from stages.core.reader.reader import Reader
from stages.core.reader.reports import set_gate
from stages.core.reader.training import new_card, report_loss, slot_loss
from tests.benchmarks.engine import RESULTS, machine
from tests.benchmarks.scaling import peak
from tests.core.reader.teaching import settings

TOKENS, WIDTH = 262_000, 2560
WORDS = ("away", "<slot>")
BATCH = 256
REPORTS = 32
"""Rows of a batch with a report loss."""


def opened(dtype: torch.dtype) -> Decoder:
    """A model of one small block with a large embedding."""
    names = ["<end>", "<pad>", "<unknown>", *WORDS, *(f"w{token}" for token in range(3 + len(WORDS), TOKENS))]
    words = Tokenizer(models.WordLevel({name: token for token, name in enumerate(names)}, unk_token="<unknown>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token=names[0], pad_token=names[1])
    config = AutoConfig.for_model(
        "qwen3", vocab_size=TOKENS, hidden_size=WIDTH, intermediate_size=256, num_hidden_layers=1, head_dim=64,
        num_attention_heads=4, num_key_value_heads=4, tie_word_embeddings=True, eos_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    return Decoder(AutoModelForCausalLM.from_config(config, dtype=dtype), tokenizer)


def forget_peak() -> None:
    """Lets `peak` begin anew, at what the process holds now."""
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")


def drawn(rows: int) -> Iterator[torch.Tensor]:
    """Gradients, a block at a time."""
    return (torch.randn(min(BLOCK_ROWS, rows - start), 1, WIDTH) for start in range(0, rows, BLOCK_ROWS))


def measure(counts: list[int], dtype: torch.dtype) -> dict[str, float]:
    """Peaks of each step above what the process holds with the model open, MB, and seconds of processor time."""
    decoder = opened(dtype)
    forget_peak()
    base = peak()
    wanted = settings(architecture="linear", width=1, layers=[0], places=[FIRST], question="<felt> away <opposite>")
    card = new_card(decoder, wanted, "drawn", "0", (1.0,))
    readers = [Reader(decoder, card, seed) for seed in range(3)]
    readers[2].trained.requires_grad_(True)
    found: dict[str, float] = {"MB held with the model open": base}

    def step(name: str, do: Callable[[], Any]) -> None:
        forget_peak()
        start = time.process_time()
        do()
        found[f"{name}: peak MB above it"] = peak() - base
        found[f"{name}: seconds"] = time.process_time() - start

    def lens(count: int) -> None:
        for block in drawn(count):
            lens_tokens(readers[0], block.numpy())

    def words_near(count: int) -> None:
        for block in drawn(count):
            nearest(readers[1].tokens, block.numpy())

    def named(row: int) -> tuple[str, str]:
        return f"w{row + 9}", f"w{row + 999}"

    def slots_and_back() -> None:
        slots = readers[2].read(torch.randn(BATCH, 1, WIDTH))
        slot_loss(readers[2], slots, [named(row) for row in range(BATCH)]).backward()

    def reports_and_back() -> None:
        reports = [" ".join(named(row) * 8) for row in range(REPORTS)]
        draws = Draws(torch.randn(REPORTS, 1, WIDTH), reports, [None] * REPORTS, [None] * REPORTS)
        report_loss(readers[2], draws, readers[2].read(draws.gradients)).backward()

    step("three readers opened", lambda: None)
    step(f"slot loss of {BATCH} rows and back", slots_and_back)
    step(f"report loss of {REPORTS} rows and back", reports_and_back)
    step(f"gate set from {REPORTS}", lambda: set_gate(readers[0], torch.randn(REPORTS, 1, WIDTH), 0.7))
    for count in counts:
        step(f"lens of {count}", partial(lens, count))
        step(f"nearest words of {count}", partial(words_near, count))
    return found


def main() -> None:
    """Measures and writes the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[512, 1024], help="numbers of gradients")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32", help="of the parameters")
    given = parser.parse_args()
    torch.set_num_threads(1)
    facts = {"tokens": TOKENS, "width": WIDTH, "dtype": given.dtype, "date": str(date.today()), **machine()}
    found = measure(given.rows, getattr(torch, given.dtype))
    few, many = (found[f"nearest words of {count}: peak MB above it"] for count in (min(given.rows), max(given.rows)))
    highest = max(value for key, value in found.items() if "above it" in key)
    facts |= {"highest peak, MB above it": highest, "more gradients, more MB": many - few, **found}
    stem = RESULTS / f"vocabulary-{given.dtype}"
    stem.with_suffix(".json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    lines = ["# Memory of reading at a large vocabulary", ""]
    lines += [f"{key}: {round(value) if isinstance(value, float) else value}  " for key, value in facts.items()]
    stem.with_suffix(".md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(json.dumps(facts))


if __name__ == "__main__":
    main()
