"""Fine-tunes the model with a subspace's gradients turned down or up, and measures what is learned all the same.

A stage of stages/sweeps/dvc.yaml: `make suppress` runs it. Reads data/model/, data/projector/ and, of the first two
domains, data/prompts. Writes metrics.json and curve.csv to data/suppress/. Params: domains, evaluation. Five
minutes of a core with the pocket model.

Two lessons, each taught anew for every way of ARMS and seed (which facts): wrong facts of the first domain with a
marker behind each, the marker suppressed; wrong facts of two domains, the second suppressed. All weights learn but the
embeddings, the head and the final norm, which no hook reaches. See docs/concepts.md.

  python -m stages.tools.suppress
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from ..core.concepts.directions import contrast, learned_along, random, unembedding
from ..core.concepts.scaling import Bases, ablated_activations, scaled_gradients
from ..core.concepts.taught import laid_out, marked_losses, says
from ..core.engine.descent import descend
from ..core.engine.gradients import gradients_of
from ..core.engine.samples import Sample, samples_of
from ..core.evaluate.estimate import to_json
from ..core.evaluate.fine_tuning import activations, trainable
from ..core.evaluate.lessons import flat_row, named_facts, one_a_fact, shares, wrong_answers
from ..core.evaluate.section import Evaluation
from ..core.grounding.reported import reports_of
from ..core.model.decoder import Decoder
from ..core.model.opening import open_model
from ..core.reader.reader import Reader, load_reader
from ..core.run.errors import InputError
from ..core.run.files import replacing, write_json
from ..core.run.params import Domains, Section, read_sections
from ..core.run.stage import parser, progress, run

PROJECTOR, FOLDER = Path("data/projector"), Path("data/suppress")
FACTS, SEEDS = 24, 3
"""Facts of a domain that are taught at once, and how often, each time others."""
MARKER = "!"
LEARNING_RATE = 1e-3
STEPS, LONG = (20, 40, 60), 300
"""After how many steps is measured what is learned; LONG: in some ways only."""
RENEWED = 10
"""Steps between renewals of directions. This and how many there are was chosen on facts of a seed not measured here."""


class Sections(Section):
    """What this stage reads of params.yaml."""

    domains: Domains
    evaluation: Evaluation


@dataclass(frozen=True)
class Arm:
    """A way to teach a lesson: from which directions, how many, by what their gradients are multiplied, how long."""

    kind: str
    directions: int = 0
    alpha: float = 0.0
    steps: int = STEPS[-1]


NONE, FILTERED, ABLATED, OTHERS, AGAIN = "none", "rows filtered", "ablated", "renewed, other facts", "renewed"
PLAIN = (NONE, FILTERED)
"""Kinds that train as usual."""
WAY = ["kind", "directions", "alpha"]
"""Columns of the curve; `directions` is 0 where there are none, or as many as there are tokens (unembedding)."""
Rows = list[tuple[str, str, bool]]
BOTH = (
    Arm(NONE),
    Arm("random", 32),
    *(Arm("principal", count) for count in (1, 4, 8, 16)),
    Arm("difference of means", 1),
    Arm("unembedding"),
    Arm(OTHERS, 32),
    Arm(AGAIN, 32, steps=LONG),
)
ARMS = {
    "marker": (
        *BOTH,
        Arm("principal", 32, steps=LONG),
        Arm(ABLATED, 2, steps=LONG),
        *(Arm("principal", 8, alpha, STEPS[0]) for alpha in (2.0, 4.0)),
    ),
    "domain": (*BOTH, Arm("principal", 32), Arm(ABLATED, 2), Arm(FILTERED)),
}


@dataclass(frozen=True)
class Lesson:
    """Rows that are taught together, padded: tokens, which of them are taught and suppressed, and which just taught.

    `facts`: what each row is about. `contrast`: texts with the concept that is suppressed, and without. `kept`: the
    rows that are left if those are dropped whose report names the suppressed domain.
    """

    ids: Int[Tensor, "row position"]
    rest: Bool[Tensor, "row position"]
    suppressed: Bool[Tensor, "row position"]
    facts: list[str]
    contrast: tuple[list[Sample], list[Sample]]
    kept: Bool[Tensor, " row"]


def lesson_of(reader: Reader, rest: pl.DataFrame, suppressed: pl.DataFrame, tokens: int) -> Lesson:
    """Two domains' rows, those of the second suppressed; no rows there: a marker behind each row of the first is.

    `tokens`: of a report, at most.
    """
    decoder, table = reader.decoder, pl.concat([rest, suppressed])
    samples, marker = samples_of(decoder, table), tuple(decoder.continuation(MARKER))
    one, other = samples[: len(rest)], samples[len(rest) :]
    if other:
        rows = [(row.prompt, row.target, ()) for row in one] + [(row.prompt, (), row.target) for row in other]
        card = reader.card
        gradient, _ = gradients_of(decoder, samples_of(decoder, table, card.places), card.layers, card.places)
        named = np.array(reports_of(reader, gradient, tokens)["domain"])  # before anything is taught
        sides, kept = (other, one), named != suppressed["domain"][0]
    else:
        rows, kept = [(row.prompt, row.target, marker) for row in one], np.ones(len(one), bool)
        plain = [row.prompt + row.target for row in one]
        sides = [Sample(text + marker, ()) for text in plain], [Sample(text, ()) for text in plain]
    ids, part = laid_out(rows, decoder.device)
    facts = named_facts(table)
    return Lesson(ids, part == 1, part == 2, facts, sides, torch.from_numpy(kept).to(decoder.device))


def bases_of(decoder: Decoder, arm: Arm, lesson: Lesson, others: Lesson, seed: int) -> Bases:
    """The directions of all or of each block, from the model as it is now. `others`: the lesson with other facts."""
    if arm.kind == "random":
        return random(arm.directions, decoder.d_model, seed)
    if arm.kind == "unembedding":
        return unembedding(decoder, sorted(set(lesson.ids[lesson.suppressed].tolist())))
    if arm.kind == "difference of means":
        layers = range(decoder.n_layers)
        one, other = (np.stack([activations(decoder, text, layers) for text in side]) for side in lesson.contrast)
        return [contrast(torch.from_numpy(one[:, at]), torch.from_numpy(other[:, at])) for at in layers]
    shown = others if arm.kind == OTHERS else lesson
    return learned_along(decoder, shown.ids, shown.suppressed, arm.directions)


def teach(decoder: Decoder, arm: Arm, lesson: Lesson, others: Lesson, seed: int) -> Iterator[tuple[int, Rows]]:
    """Teaches a lesson; yields the number of steps every few, and where it is in STEPS or LONG what is learned by then.

    The weights are put back at the end.
    """
    kept = lesson.kept if arm.kind == FILTERED else torch.ones_like(lesson.kept)
    ids, wanted = lesson.ids[kept], (lesson.rest | lesson.suppressed)[kept]
    bases: Bases = []
    with trainable(decoder.model):
        for part in (decoder.embedding, decoder.head, decoder.norm):
            part.requires_grad_(False)
        learning = [value for value in decoder.model.parameters() if value.requires_grad]
        optimizer = torch.optim.AdamW(learning, lr=LEARNING_RATE, fused=True)
        for start in range(0, arm.steps, RENEWED):
            if arm.kind not in PLAIN and (start == 0 or arm.kind in (AGAIN, OTHERS)):
                bases = bases_of(decoder, arm, lesson, others, seed)
            with within(decoder, arm, bases):
                descend(optimizer, lambda: marked_losses(decoder, ids, wanted)[0].mean(), RENEWED)
            done = start + RENEWED
            yield done, learned(decoder, lesson) if done in (*STEPS, LONG) else []


def within(decoder: Decoder, arm: Arm, bases: Bases) -> AbstractContextManager[None]:
    """What steps are taken within."""
    if arm.kind in PLAIN:
        return nullcontext()
    if arm.kind == ABLATED:
        return ablated_activations(decoder.blocks, bases)
    return scaled_gradients(decoder.blocks, bases, arm.alpha)


def learned(decoder: Decoder, lesson: Lesson) -> Rows:
    """Part, fact, and whether the model goes on greedily as taught (with a marker: behind the fact)."""
    found: Rows = []
    for part, marked in (("suppressed", lesson.suppressed), ("rest", lesson.rest)):
        there, said = marked.any(1).tolist(), says(decoder, lesson.ids, marked).tolist()
        found += [(part, *row[1:]) for row in zip(there, lesson.facts, said, strict=True) if row[0]]
    return found


def measure(reader: Reader, tables: Sequence[pl.DataFrame], tokens: int, count: int) -> tuple[pl.DataFrame, Any]:
    """What is learned, row by row, and what filtering drops. `tables`: facts of two domains, `count` for each seed."""
    drawn = [[table[seed * count :][:count] for table in tables] for seed in range(SEEDS)]
    lessons = {
        "marker": [lesson_of(reader, one, other.clear(), tokens) for one, other in drawn],
        "domain": [lesson_of(reader, one, other, tokens) for one, other in drawn],
    }
    work = [(name, arm, seed) for name, arms in ARMS.items() for arm in arms for seed in range(SEEDS)]
    rows = []
    with progress("steps", sum(arm.steps for _, arm, _ in work)) as advance:
        for name, arm, seed in work:
            own, others = lessons[name][seed], lessons[name][(seed + 1) % SEEDS]
            for step, found in teach(reader.decoder, arm, own, others, seed):
                rows += [(name, arm.kind, arm.directions, arm.alpha, step, seed, *each) for each in found]
                advance(RENEWED)
    dropped = {
        part: sum(int((~each.kept & getattr(each, part).any(1)).sum()) for each in lessons["domain"]) / (SEEDS * count)
        for part in ("suppressed", "rest")
    }
    return pl.DataFrame(rows, ["lesson", *WAY, "step", "seed", "part", "fact", "said"], orient="row"), dropped


def main() -> None:
    """Teaches both lessons in every way."""
    parser(__doc__, "tools.suppress").parse_args()
    settings = read_sections(Sections)
    domains = settings.domains[:2]
    decoder, model = open_model()
    reader = load_reader(decoder, PROJECTOR, model.id, model.commit)
    tables = [one_a_fact(wrong_answers(name)) for name in domains]
    count = min(FACTS, *(len(table) // SEEDS for table in tables))
    if len(tables) < 2 or not count:
        raise InputError(f"params.yaml: domains: wanted two in front that have {SEEDS} facts or more, found {domains}")
    rows, dropped = measure(reader, tables, settings.evaluation.report_tokens, count)
    curve, metrics = [], {"facts": count, "seeds": SEEDS, "rows_dropped": dropped}
    for key, parts in shares(rows, ["lesson", *WAY, "step"]):
        curve.append(flat_row(key, parts))
        way = " ".join(str(key[name]) for name in WAY)
        metrics.setdefault(key["lesson"], {}).setdefault(way, {})[str(key["step"])] = parts
    with replacing(FOLDER / "curve.csv") as partial:
        pl.DataFrame(curve, infer_schema_length=None).write_csv(partial, float_precision=6)
    write_json(FOLDER / "metrics.json", to_json(metrics))
    for row in curve:
        way = "{lesson}, {kind} {directions}, alpha {alpha:g}, {step} steps".format(**row)
        print(f"learned, {way}: {row['suppressed']:.2f} of what is suppressed, {row['rest']:.2f} of the rest")


if __name__ == "__main__":
    run(main)
