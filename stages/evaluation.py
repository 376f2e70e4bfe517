"""Asks the model what it reads in each gradient, in front of foreign hosts and under every control, and scores it.

Reads data/model/, data/projector/ and, of all domains, data/prompts, data/gradients, data/virtual_step and data/labels.
Writes data/evaluation/: metrics.json, reports.parquet (every report), grid.csv and conditions.csv (plots). Params:
evaluation, domains. A GPU is used if there is one; the pocket model takes a minute or two on two cores. Resumes
condition by condition.

  python -m stages.evaluation
"""

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from .core.data.gathering import Gathered, Means, blocks, gather, taught
from .core.data.tables import LABELS, VIRTUAL_STEP, read_table, write_table
from .core.engine.rows import samples_of
from .core.evaluate import measures, strengths
from .core.evaluate.baselines import lens_vectors
from .core.evaluate.cases import NO_HOST, picked, with_hosts, with_premise
from .core.evaluate.conditions import CONDITIONS, SHAMS, STRENGTHS, SWAPPED, Pool, Vectors
from .core.evaluate.estimate import to_json
from .core.evaluate.fine_tuning import activation_moves
from .core.evaluate.references import option_scores, references, steering_success
from .core.evaluate.scoring import REPORTS, SCORES, Words, scored
from .core.evaluate.section import Evaluation
from .core.labels.agreement import known
from .core.model.decoder import Decoder
from .core.model.opening import open_model
from .core.reader.card import read_projector_card
from .core.reader.projectors import STRONGEST, features
from .core.reader.reader import Reader
from .core.reader.shams import Normal, normed
from .core.run.files import Scratch, content_hash, replacing, write_json
from .core.run.params import Domains, Section, read_sections
from .core.run.stage import parse, progress, run

PROJECTOR = Path("data/projector")
LENS, BIAS, TUNED, FALSE_HOST = "lens_tokens", "bias_only", "fine_tuned", "false_host"
"""Conditions that need more than the gradients: the head, another projector, the weights, other hosts."""
WITHOUT_PROJECTOR = ("none", LENS)
"""Conditions in which the projector has no part: its seeds would all say the same."""
UNGATED = "_ungated"
"""Ends the names of those of OPENED read with the gate open: there, silence can't pass for telling apart."""
OPENED = ("covariance_matched", "activation", "activation_negated", "steering_vector", TUNED)
COUNTERFACTUAL = pl.col("kind") == "counterfactual"


class Sections(Section):
    """What this stage reads of params.yaml."""

    domains: Domains
    evaluation: Evaluation


def questions(data: Gathered, rows: pl.DataFrame, domains: list[str], settings: Evaluation) -> dict[str, pl.DataFrame]:
    """The cases of each condition; "real" also holds the grid of hosts and the held-out groups.

    `shuffled_within` has none of domains with one gradient, which has no other to take from.
    """
    test = rows.filter(pl.col("split") == "test")
    pool = data.rows.filter((pl.col("split") == "test") & measures.SEEN & COUNTERFACTUAL)
    seen = picked(test.filter(measures.SEEN & COUNTERFACTUAL), settings.gradients, settings.seed, "grid")
    real = [with_hosts(seen, pool, [*domains, NO_HOST], settings.seed)]
    for reason in ("target", "subject", "template", "relation"):
        held = test.filter((pl.col("held_out") == reason) & COUNTERFACTUAL)
        real.append(with_hosts(picked(held, settings.gradients, settings.seed, reason), pool, None, settings.seed))
    corrections = with_hosts(test.filter(~COUNTERFACTUAL), pool, None, settings.seed)
    if len(corrections):
        real.append(corrections.with_columns(held_out=pl.lit("correction")))
    foreign = with_hosts(seen, pool, None, settings.seed)
    cases = {name: foreign for name in [*CONDITIONS, LENS, BIAS] if name != "real"}
    cases["shuffled_within"] = foreign.filter(pl.len().over("gradient_domain") > 1)
    few = picked(seen, settings.fine_tuned, settings.seed, TUNED)
    cases = {
        "real": pl.concat([part for part in real if len(part)]),
        **cases,
        TUNED: with_hosts(few, pool, None, settings.seed),
        FALSE_HOST: with_hosts(seen, pool, None, settings.seed, false=True),
    }
    cases |= {f"{name}{UNGATED}": cases[name] for name in OPENED}
    return {name: asked for name, asked in cases.items() if len(asked)}


def asked_of(condition: str, readers: list[Reader], bias: Reader) -> list[Reader]:
    """Who reads under a condition: all seeds, or one where the projector has no part (LoRA is a part of every seed)."""
    if condition == BIAS:
        return [bias]
    once = condition in WITHOUT_PROJECTOR and readers[0].adapter is None
    return readers[:1] if once else readers


class Asking:
    """Puts each condition's cases to the model and keeps the scored reports."""

    def __init__(
        self, data: Gathered, rows: pl.DataFrame, decoder: Decoder, settings: Evaluation, folder: Path
    ) -> None:
        self.data, self.decoder, self.settings, self.folder = data, decoder, settings, folder
        self.rows = rows
        self.moves: Vectors | None = None

    @cached_property
    def training(self) -> tuple[Normal, Means]:
        """What conditions know of the training rows: the gradients' distribution, the mean activations by answer."""
        train = self.rows.filter((pl.col("split") == "train") & measures.SEEN & COUNTERFACTUAL)
        test = self.rows.filter(pl.col("split") == "test")
        means = Means.of(self.data.activation, train, {*test["target"], *test["answer"]})
        return Normal(blocks(self.data.gradient, train["row"].to_numpy())), means

    def vectors(self, condition: str, cases: pl.DataFrame, reader: Reader) -> Vectors | None:
        """What is read under the condition in place of the gradients; None: nothing."""
        at = cases["row"].to_numpy()
        gradients = self.data.gradient[at]
        if condition in (LENS, BIAS, FALSE_HOST):
            return gradients
        if condition == TUNED:
            if self.moves is None:
                self.moves = activation_moves(self.decoder, samples_of(self.decoder, cases), self.data.layers)
            return -normed(self.moves, gradients)
        make = CONDITIONS[condition]
        if make is None:
            return None
        pool = Pool(
            cases.rename({"gradient_domain": "domain"}),
            gradients,
            self.data.activation[at],
            np.array(reader.card.reference, dtype=np.float32),
            self.settings.seed,
            *self.training,
        )
        return make(pool)

    def ask(self, condition: str, cases: pl.DataFrame, reader: Reader) -> pl.DataFrame:
        """The scored reports of one condition; kept as soon as they are written."""
        path = self.folder / f"{condition}-{reader.seed}.parquet"
        if path.exists():
            return read_table(path, REPORTS)
        read = self.vectors(condition.removesuffix(UNGATED), cases, reader)
        if condition in SWAPPED:
            cases = cases.rename({"target": "answer", "answer": "target"})
        slots, confidence = None, None
        if read is not None:
            with torch.no_grad():
                if condition == LENS:
                    slots = lens_vectors(reader, read)
                elif condition.endswith(UNGATED):
                    slots = reader.weigh(torch.tensor(read))[0]
                else:
                    slots, confidence = reader.fill(torch.tensor(read))
        cases = cases.with_columns(
            condition=pl.lit(condition),
            seed=pl.lit(reader.seed),
            confidence=pl.lit(None) if confidence is None else pl.Series(confidence.cpu().numpy()),
        )
        reports = reader.report_vectors(cases["host"].to_list(), slots, self.settings.report_tokens)
        write_table(path, scored(cases, reports), REPORTS)
        return read_table(path, REPORTS)


def main() -> None:
    """Evaluates the projector."""
    parse(__doc__, "evaluation", by_domain=False)
    params = read_sections(Sections)
    settings = params.evaluation
    decoder, model = open_model()
    card = read_projector_card(PROJECTOR)
    readers = [Reader.load(decoder, PROJECTOR, model.id, model.commit, seed) for seed in card.seeds]
    bias = Reader.load(decoder, PROJECTOR / BIAS, model.id, model.commit)
    data = gather(params.domains, card.layers)
    shifts = [read_table(Path("data/virtual_step") / f"{name}.parquet", VIRTUAL_STEP) for name in params.domains]
    said = pl.concat(shifts).select("prompt_id", "continuation_before").unique("prompt_id", maintain_order=True)
    rows = with_premise(data.rows, said)
    cases = questions(data, rows, params.domains, settings)
    scratch = Scratch(
        "evaluation", params.model_dump_json(), model.model_dump_json(), content_hash(PROJECTOR), said.write_csv()
    )
    asking = Asking(data, rows, decoder, settings, scratch.folder)
    todo = [(name, asked, reader) for name, asked in cases.items() for reader in asked_of(name, readers, bias)]
    parts = []
    with progress("evaluation", sum(len(asked) for _, asked, _ in todo)) as advance:
        for condition, asked, reader in todo:
            parts.append(asking.ask(condition, asked, reader))
            advance(len(asked))
    reports = pl.concat(parts)
    metrics = {**of_reports(reports, data, readers[0], settings), **of_data(data, rows, reports, readers, params)}
    folder = Path("data/evaluation")
    with replacing(folder) as partial:
        partial.mkdir()
        write_table(partial / "reports.parquet", reports, REPORTS)
        write_json(partial / "metrics.json", to_json(metrics))
        measures.grid(reports).write_csv(partial / "grid.csv")
        measures.bars(metrics).write_csv(partial / "conditions.csv")
    scratch.clear()
    real = metrics["decoupling"]
    said = ", ".join(f"{name.removesuffix('_accuracy').replace('_', ' ')} {real[name].value:.3f}" for name in SCORES)
    print(f"{folder}: {len(reports)} reports; in front of foreign hosts {said}")


def of_reports(reports: pl.DataFrame, data: Gathered, reader: Reader, settings: Evaluation) -> dict[str, Any]:
    """What the reports say."""
    how = settings.bootstrap, settings.seed
    words = Words.of(data.rows)
    controls = [name for name in reports["condition"].unique(maintain_order=True) if name != "real"]
    lessons = taught(data.rows.filter(~pl.col("domain").is_in(reader.card.held_out_domains)), "train")
    read = data.rows.filter(pl.col("prompt_id").is_in(reports["prompt_id"].implode()))
    natural = features(torch.from_numpy(data.gradient[read["row"].to_numpy()]), reader.reference.cpu())[1][:, 0]
    norms = read.select("prompt_id", natural=pl.Series(natural.numpy()))
    return {
        **measures.of_groups(reports, *how, words),
        **measures.of_unnamed(reports, {*lessons["label_moved_to"], *lessons["label_moved_from"]}, *how, words),
        "controls": measures.of_controls(reports, controls, *how, words),
        "detection": measures.of_detection(reports, SHAMS, *how),
        "strength": {
            **measures.of_strength(reports, *how),
            **strengths.of_factors(reports, STRENGTHS, *how),
            "natural": strengths.of_nature(reports, norms, STRONGEST, *how),
        },
        "circularity": measures.of_circularity(reports, data.rows.select("prompt_id", "label_moved_to"), *how),
        "seeds": measures.of_seeds(reports, SHAMS),
    }


def of_data(
    data: Gathered, rows: pl.DataFrame, reports: pl.DataFrame, readers: list[Reader], params: Sections
) -> dict[str, Any]:
    """What is known beside the reports: ceiling, floor, retrieval, options, steering, the teacher and the model."""
    settings = params.evaluation
    train = rows.filter((pl.col("split") == "train") & measures.SEEN)
    left_out = pl.col("domain").is_in(readers[0].card.held_out_domains)
    seen = rows.filter((pl.col("split") == "test") & measures.SEEN & COUNTERFACTUAL)
    test = picked(seen, settings.gradients, settings.seed, "grid")
    labels = pl.concat([read_table(Path("data/labels") / f"{name}.parquet", LABELS) for name in params.domains])
    facts = data.rows.filter(COUNTERFACTUAL).unique("prompt", maintain_order=True)["prompt_id"]
    return {
        **references(data, train.filter(~left_out), rows, reports, readers[0].decoder, settings),
        "options": option_scores(data, test, readers, settings),
        "steering": steering_success(data, train, test, readers[0].decoder, settings),
        "teacher": known(labels, rows.filter(COUNTERFACTUAL)),
        "model": {"fact_accuracy": len(set(facts) & set(rows["prompt_id"])) / len(facts)},
    }


if __name__ == "__main__":
    run(main)
