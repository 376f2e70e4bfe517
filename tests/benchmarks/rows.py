"""Measures the projector stage by number of rows: memory, and the rate of one epoch of training.

Runs the code of `stages.projector` (gathering, reference norms, training, gate) on tables and stores of drawn rows, the
default layers and places of the pocket model's width, each number of rows in a folder and a process of its own, one
thread. The model has the pocket model's shape and random weights, the projector is linear. The clock is the process's
seconds of processor time. Writes tests/benchmarks/results/rows.json and .md.

  python -m tests.benchmarks.rows    10 000 rows (the median of three times) and 1 000 000: a quarter of an hour, 3 GB
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import date
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from stages import projector
from stages.core.data.facts import Domain
from stages.core.data.gathering import TAUGHT, gather, taught
from stages.core.data.gradient_store import shards, write_store
from stages.core.data.held_out import HeldOut
from stages.core.data.tables import LABELS, PROMPTS, write_table
from stages.core.model.decoder import Decoder
from stages.core.model.names import make_tokenizer
from stages.core.model.opening import card_of, open_model
from stages.core.model.pocket import new_model
from stages.core.model.section import Model
from stages.core.model.sources import read_lessons
from stages.core.reader.lessons import curriculum
from stages.core.reader.reader import Reader
from stages.core.reader.reports import set_gate
from stages.core.reader.training import card_for
from stages.core.run.params import Names, read_sections
from tests.benchmarks.engine import RESULTS, machine
from tests.benchmarks.scaling import peak
from tests.pipeline import tiny

TIMES = {10_000: 3, 1_000_000: 1}
KEEP_BITS = 7
SETTINGS = {"architecture": "linear", "batch": 256, "slot_loss": 1.0, "validate_every": 350, "patience": 1000}
"""Beside the defaults: something to train, many rows a step, few validations, and no early end."""
A_PROMPT = 4
"""Rows that share a prompt, as in the defaults."""


class Sections(projector.Sections):
    """What is read of params.yaml."""

    model: Model
    questions: Names
    held_out: HeldOut


def prepare(root: Path, count: int) -> None:
    """params.yaml, the model, and tables and stores of `count` rows, nine of ten in training."""
    (root / "params.yaml").write_bytes((tiny.ROOT / "params.yaml").read_bytes())
    (root / "data").mkdir()
    for name in ("facts", "questions"):
        (root / "data" / name).symlink_to(tiny.ROOT / "data" / name)
    os.chdir(root)
    params = read_sections(Sections)
    lessons = read_lessons(params.domains, params.questions, params.held_out)
    domains, tokenizer = lessons.domains, make_tokenizer(lessons.domains, lessons.questions)
    model = new_model(params.model.pocket, tokenizer)
    model.save_pretrained("data/model")
    tokenizer.save_pretrained("data/model")
    card = card_of(Decoder(model, tokenizer), "pocket", "random weights", "0" * 40)
    Path("data/model/model.json").write_text(card.model_dump_json(), encoding="utf-8")
    layers, places = params.projector.layers, params.projector.places
    attributes = {"model": card.id, "commit": card.commit, "hook_point": "", "loss": "", "sign": ""}
    attributes |= {"layers": layers, "places": places}
    for number, domain in enumerate(domains):
        rows = count // len(domains)
        ids = [f"{number:02x}{row:014x}" for row in range(rows)]
        write_tables(domain, ids)
        pieces = Drawn(rows, (len(places), len(layers), card.d_model), number)
        write_store(Path(f"data/gradients/{domain.domain}.zarr"), pieces, ids, KEEP_BITS, attributes)


class Drawn(list[Mapping[str, np.ndarray]]):
    """Pieces of a store, a shard each, drawn when they are asked for."""

    def __init__(self, rows: int, shape: tuple[int, int, int], seed: int) -> None:
        places, layers, d_model = self.shape = shape
        self.parts, self.seed = list(shards(rows, places * layers, d_model)), seed
        super().__init__({} for _ in self.parts)

    def __getitem__(self, index: Any) -> Any:
        rows = self.parts[index].stop - self.parts[index].start
        rng = np.random.default_rng([self.seed, index])
        vectors = {name: rng.standard_normal((rows, *self.shape), np.float32) for name in ("gradient", "activation")}
        return vectors | {name: np.zeros(rows) for name in ("target_logprob", "answer_logprob", "top_token")}

    def __iter__(self) -> Any:
        return (self[index] for index in range(len(self.parts)))


def write_tables(domain: Domain, ids: list[str]) -> None:
    """Prompts and labels: moves between the domain's entities, in prompts of its templates."""
    templates = [template for relation in domain.relations.values() for template in relation.templates]
    entities = list(domain.entities)
    row = pl.int_range(len(ids))
    columns: dict[str, Any] = {name: pl.lit("-") for name in PROMPTS} | {
        "prompt_id": pl.Series(ids),
        "domain": pl.lit(domain.domain),
        "prompt": pl.Series(
            [templates[at // A_PROMPT % len(templates)].format(subject=f"{at // A_PROMPT}") for at in range(len(ids))]
        ),
        "target": pl.Series(entities).gather(row % len(entities)),
        "answer": pl.Series(entities).gather((row // 7 + row + 1) % len(entities)),
        "split": pl.when(row % 10 == 9).then(pl.lit("validation")).otherwise(pl.lit("train")),
        "held_out": pl.lit("none"),
    }
    prompts = pl.select(**columns)
    write_table(Path(f"data/prompts/{domain.domain}.parquet"), prompts, PROMPTS)
    said = {"moved_to": "target", "moved_from": "answer", "domain": "domain", "prompt_id": "prompt_id"}
    rest = {"summary": pl.lit("-"), "confidence": pl.lit(1.0), "teacher": pl.lit("drawn")}
    labels = prompts.select(**{new: pl.col(old) for new, old in said.items()}, **rest)
    write_table(Path(f"data/labels/{domain.domain}.parquet"), labels, LABELS)


def measure() -> dict[str, float]:
    """Goes through one epoch in the working directory."""
    params = read_sections(projector.Sections)
    settings = params.projector.model_copy(update=SETTINGS)
    start = time.process_time()
    data = gather(params.domains, settings.layers, TAUGHT, settings.places)
    decoder, model = open_model()
    reader = Reader(decoder, card_for(decoder, model, data, settings), 0)
    ready = time.process_time()
    steps = taught(data.rows, "train").height // settings.batch
    settings = settings.model_copy(update={"steps": steps})
    ends: list[float] = []

    @contextmanager
    def noted(_what: str, _total: int) -> Iterator[Callable[[int], None]]:
        yield lambda _steps: ends.append(time.process_time())

    projector.progress = noted
    with tempfile.TemporaryDirectory() as folder:
        projector.teach(reader, data, settings, Path(folder))
    trained = time.process_time()
    lessons = curriculum(data, "validation", reader, settings)
    set_gate(reader, lessons.draw("gate", 0, settings.validation_batch, 0).gradients, settings.gate)
    # Between two steps; what follows a validation is left out.
    held = settings.validate_every
    spent = [end - start for step, (start, end) in enumerate(pairwise(ends)) if step % held or not step]
    return {
        "rows a second of the epoch": settings.batch * len(spent) / sum(spent),
        "peak MB": peak(),
        "bytes of the table a row": data.rows.estimated_size() / data.rows.height,
        "steps of the epoch": len(ends) - 1,
        "seconds of its steps": sum(spent),
        "seconds before it (tables, reference norms)": ready - start,
        "seconds after it (gate)": time.process_time() - trained,
    }


def alone(count: int, times: int) -> dict[str, float]:
    """A number of rows in a folder, each time in a process of its own: the time of median rate."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(tiny.ROOT)}
        command = [sys.executable, "-m", "tests.benchmarks.rows"]
        subprocess.run([*command, "--prepare", str(count)], cwd=folder, env=environment, check=True)
        found = []
        for _ in range(times):
            done = subprocess.run(
                [*command, "--here"], cwd=folder, env=environment, stdout=subprocess.PIPE, text=True, check=True
            )
            found.append(json.loads(done.stdout.strip().splitlines()[-1]))
            print(f"{count}: {json.dumps(found[-1])}", flush=True)
    return sorted(found, key=lambda each: each["rows a second of the epoch"])[len(found) // 2]


def main() -> None:
    """Runs every number of rows and writes the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=list(TIMES), help="numbers of rows")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--prepare", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.prepare:
        prepare(Path.cwd(), given.prepare)
    elif given.here:
        print(json.dumps(measure()))
    else:
        report({count: alone(count, TIMES.get(count, 1)) for count in given.rows})


def report(found: dict[int, dict[str, float]]) -> None:
    """Writes the results."""
    few, many = found[min(found)], found[max(found)]
    facts = {
        "peak at the most rows / at the fewest": many["peak MB"] / few["peak MB"],
        "rate at the most rows / at the fewest": many["rows a second of the epoch"] / few["rows a second of the epoch"],
        "mantissa bits stored": KEEP_BITS,
        "date": str(date.today()),
        **machine(),
    }
    stem = RESULTS / "rows"
    stem.with_suffix(".json").write_text(json.dumps({**facts, "rows": found}, indent=2) + "\n", encoding="utf-8")
    lines = ["# The projector stage by number of rows, one epoch of one seed", ""]
    lines += [
        f"{key}: {value:.3g}  " if isinstance(value, float) else f"{key}: {value}  " for key, value in facts.items()
    ]
    lines += ["", f"| | {' | '.join(f'{count:,} rows' for count in found)} |", "|---" * (len(found) + 1) + "|"]
    lines += [f"| {key} | {' | '.join(f'{each[key]:,.4g}' for each in found.values())} |" for key in few]
    stem.with_suffix(".md").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
