"""Measures how many free vectors in front of a prompt a behaviour takes: a yardstick of what it costs to ask for it.

A stage of stages/sweeps/dvc.yaml: `make soft-prompts` runs it. Reads data/model/ and the first domain's data/prompts.
Writes metrics.json and curve.csv to data/soft_prompts/. Params: domains. Ten minutes of a core with the pocket model.

Soft prompts of 1 to 8 vectors are fitted to behaviours: wrong facts, a rule, and a fine-tuning that is undone or
brought out. Of each is measured how much is said of what it was fitted to, of what it was not, and with noise on the
vectors. See docs/comparing.md.

  python -m stages.tools.soft_prompts
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from ..core.concepts.taught import Ids, Marks, SoftPrompt, laid_out, marked_losses, says
from ..core.engine.descent import descend
from ..core.engine.samples import samples_of
from ..core.evaluate.estimate import to_json
from ..core.evaluate.fine_tuning import trainable
from ..core.evaluate.lessons import FACT, flat_row, named_facts, one_a_fact, shares, wrong_answers
from ..core.model.decoder import Decoder
from ..core.model.opening import open_model
from ..core.run.errors import InputError
from ..core.run.files import replacing, write_json
from ..core.run.params import Domains, Section, read_sections
from ..core.run.seeds import keyed_rng
from ..core.run.stage import parser, progress, run

FOLDER = Path("data/soft_prompts")
FACTS, SEEDS = 24, 3
"""Rows of the largest behaviours, and how often they are drawn, each time others."""
VECTORS = (0, 1, 2, 4, 8)
SIZES = {1: 4, 4: 1, 12: 1, 24: 1}
"""Of wrong facts asked for at once: in how many parts. A fact alone is tried with several, each its own soft prompt."""
NOISE, DRAWS = (0.1, 0.3, 1.0), 8
"""Norms of noise, as multiples of each vector's, and how often it is drawn."""
RATE, TAUGHT, HALF_TAUGHT = 1e-3, 20, 6
"""Of the fine-tuning: AdamW's learning rate, and its steps; chosen on facts of a seed not measured here."""
STEPS, FITTING_RATE, ENOUGH = 300, 0.1, 0.01
"""Of Adam on vectors: at most so many steps, until the mean loss is so many nats, where 50 tokens are the likeliest."""


class Sections(Section):
    """What this stage reads of params.yaml."""

    domains: Domains


@dataclass(frozen=True)
class Behaviour:
    """What the model is to say: rows that soft prompts are fitted to, and rows `apart` from them.

    `tuned`: the rows that it is fine-tuned on before, and the steps.
    """

    name: str
    fitted: pl.DataFrame
    apart: pl.DataFrame
    tuned: tuple[pl.DataFrame, int] | None = None


def behaviours(prompts: pl.DataFrame, facts: pl.DataFrame) -> Iterator[Behaviour]:
    """The behaviours made of some facts, the second half of which is only asked whether it follows the rule.

    `prompts`: all that there are; another one about the same fact is apart from it.
    """
    rows, others = facts[: len(facts) // 2], facts[len(facts) // 2 :]
    for size, parts in SIZES.items():
        for part in rows[: size * parts].iter_slices(size):
            own = part.select(*FACT, asked="prompt", wrong="target")
            told = prompts.join(own, on=FACT, maintain_order="left").filter(pl.col("prompt") != pl.col("asked"))
            yield Behaviour(f"facts {size}", part, one_a_fact(told).with_columns(target="wrong").select(part.columns))
    word = pl.lit(rows["target"][0]).alias("target")
    yield Behaviour("rule", rows.with_columns(word), others.with_columns(word))
    right, half = rows.with_columns(target="answer", answer="target"), len(rows) // 2
    yield Behaviour("undone", right[:half], right[half:], (rows, TAUGHT))
    yield Behaviour("brought out", rows[:half], rows[half:], (rows, HALF_TAUGHT))


def tokens_of(decoder: Decoder, rows: pl.DataFrame) -> tuple[Ids, Marks]:
    """Prompts and targets, padded, and which tokens are the targets'."""
    texts = [(sample.prompt, sample.target) for sample in samples_of(decoder, rows.with_columns(answer=None))]
    ids, part = laid_out(texts, decoder.device)
    return ids, part == 1


def fitted(decoder: Decoder, ids: Ids, marked: Marks, count: int, seed: int) -> SoftPrompt:
    """The `count` vectors in front of these rows that make their marked tokens likeliest; the model stays as it is."""
    vectors = _drawn((count, decoder.d_model), decoder.device, seed, "soft prompt").requires_grad_()
    if count:
        optimizer = torch.optim.Adam([vectors], FITTING_RATE)
        descend(optimizer, lambda: marked_losses(decoder, ids, marked, vectors)[0].mean(), STEPS, ENOUGH)
    return vectors.detach()


def noised(prompt: SoftPrompt, scale: float, seed: int) -> SoftPrompt:
    """The vectors with Gaussian noise, whose norm is about `scale` times each vector's own."""
    noise = _drawn(prompt.shape, prompt.device, seed, "noise") / prompt.shape[-1] ** 0.5
    return prompt + scale * prompt.norm(dim=-1, keepdim=True) * noise


def _drawn(shape: Sequence[int], device: torch.device, seed: int, purpose: str) -> SoftPrompt:
    return torch.from_numpy(keyed_rng(seed, purpose).standard_normal(shape, np.float32)).to(device)


def measured(decoder: Decoder, behaviour: Behaviour, seed: int) -> Iterator[pl.DataFrame]:
    """What is said with each number of vectors: columns vectors, part, fact and said (the mean over draws of noise).

    The model is put back at the end.
    """
    own, apart = (tokens_of(decoder, rows) for rows in (behaviour.fitted, behaviour.apart))
    with trainable(decoder.blocks):
        if behaviour.tuned is not None:
            rows, steps = behaviour.tuned
            optimizer = torch.optim.AdamW(decoder.blocks.parameters(), RATE, fused=True)
            ids, marked = tokens_of(decoder, rows)
            descend(optimizer, lambda: marked_losses(decoder, ids, marked)[0].mean(), steps)
        decoder.blocks.requires_grad_(False)
        for count in VECTORS:
            prompt = fitted(decoder, *own, count, seed)
            found = {"fitted": says(decoder, *own, prompt), "apart": says(decoder, *apart, prompt)}
            for scale in NOISE if count else ():
                shaken = [says(decoder, *own, noised(prompt, scale, draw)) for draw in range(DRAWS)]
                found[f"noise_{scale:g}"] = torch.stack(shaken).float().mean(0)
            for part, said in found.items():
                facts = named_facts(behaviour.apart if part == "apart" else behaviour.fitted)
                yield pl.DataFrame(
                    {"fact": facts, "said": pl.Series(said.float().tolist(), dtype=pl.Float64)}
                ).with_columns(vectors=pl.lit(count), part=pl.lit(part))


def main() -> None:
    """Fits soft prompts to every behaviour."""
    parser(__doc__, "tools.soft_prompts").parse_args()
    domain = read_sections(Sections).domains[0]
    decoder, _ = open_model()
    prompts = wrong_answers(domain).filter(pl.col("split") != "test")
    prompts = prompts.filter(pl.col("prompt").n_unique().over(FACT) > 1)
    facts = one_a_fact(prompts)
    known = says(decoder, *tokens_of(decoder, facts.with_columns(target="answer")))
    facts = facts.filter(pl.Series(known.tolist(), dtype=pl.Boolean))
    count = min(2 * FACTS, len(facts) // SEEDS)
    if count < 4:
        found = f"{domain} with {len(facts)} facts outside of the test split that the model knows"
        raise InputError(f"params.yaml: domains: found {found} in front, wanted {4 * SEEDS} or more")
    work = [(each, seed) for seed in range(SEEDS) for each in behaviours(prompts, facts[seed * count :][:count])]
    rows = []
    with progress("behaviours", len(work)) as advance:
        for behaviour, seed in work:
            for found in measured(decoder, behaviour, seed):
                rows.append(found.with_columns(behaviour=pl.lit(behaviour.name), seed=pl.lit(seed)))
            advance(1)
    curve: list[dict[str, Any]] = []
    metrics: dict[str, Any] = {"facts": count // 2, "seeds": SEEDS}
    for key, parts in shares(pl.concat(rows), ["behaviour", "vectors"]):
        curve.append(flat_row(key, parts))
        metrics.setdefault(key["behaviour"], {})[str(key["vectors"])] = parts
        print("said, {behaviour}, vectors {vectors}: {fitted:.2f}, apart from it {apart:.2f}".format(**curve[-1]))
    with replacing(FOLDER / "curve.csv") as partial:
        pl.DataFrame(curve, infer_schema_length=None).write_csv(partial, float_precision=6)
    write_json(FOLDER / "metrics.json", to_json(metrics))


if __name__ == "__main__":
    run(main)
