"""Scores: how much of the gradient each text explains, and whether acting on the words does what the gradient does."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import polars as pl

from ..engine.samples import samples_of
from ..evaluate.statistics import GAP, estimates
from ..model.decoder import Decoder
from ..steps.virtual_step import virtual_steps
from .head import Directions, cosines, shares

GROUPS = {
    "none": "seen",
    "target": "held_out_target",
    "kind": "held_out_kind",
    "template": "held_out_template",
}
"""What the values of `held_out` that are scored are called."""


def text_scores(found: Mapping[str, Directions], wanted: Directions, cases: pl.DataFrame) -> dict[str, Any]:
    """Of each text the explained share and the cosine, in each of GROUPS, with intervals over target entities."""
    scores: dict[str, Any] = {}
    for text, directions in found.items():
        kinds = {"explained": (shares(directions, wanted), None), "cosine": (cosines(directions, wanted), GAP)}
        scores[text] = {}
        for held_out, group in GROUPS.items():
            at = wanted.any(1) & (cases["held_out"] == held_out).to_numpy()
            clusters = cases["target"].filter(pl.Series(at)).to_list()
            for kind, (values, bounds) in kinds.items():
                for name, one in estimates({f"{kind}_{group}": values[at]}, clusters, bounds).items():
                    scores[text][name] = one if one.high is None else replace(one, high=min(one.high, 1.0))
    return scores


def step_scores(
    decoder: Decoder, cases: pl.DataFrame, found: Mapping[str, Directions], layer: int, sizes: Sequence[float]
) -> dict[str, Any]:
    """What virtual steps along directions do, where nothing is held out and one along the gradient itself does it.

    `toward`: the target's first token becomes the likeliest; `away`: the answer's is the token that falls most. Of each
    of the directions `found` (`gradient`: of all cases) and step sizes the share; intervals over target entities.
    """
    seen = (cases["held_out"] == "none").to_numpy()
    cases, done = cases.filter(pl.Series(seen)), {}
    samples = samples_of(decoder, cases)
    answers = np.array([sample.answer[0] if sample.answer else -1 for sample in samples])[:, None]
    steps = partial(virtual_steps, decoder, samples, layers=[layer], step_sizes=sizes)
    for name, directions in found.items():
        toward, away = np.zeros((2, len(cases), len(sizes)), dtype=bool)
        gradients = -directions[seen, None].astype(np.float32)
        for batch in steps(gradients=gradients, top_tokens=1, continuation_tokens=0):
            toward[batch.rows] = batch.target_rank[:, 0] == 1
            away[batch.rows] = batch.down_ids[:, 0, :, 0] == answers[batch.rows]
        done[name] = {"toward": toward, "away": away}
    scores: dict[str, Any] = {"toward": {}, "away": {}}
    for way, of in scores.items():
        for name, marks in done.items():
            of[name] = {}
            for step, size in enumerate(sizes):
                reached = done["gradient"][way][:, step] | (name == "gradient")
                clusters = cases["target"].filter(pl.Series(reached)).to_list()
                of[name] |= estimates({f"step_{size:g}": marks[way][reached, step]}, clusters)
    return scores


def swapped(cases: pl.DataFrame, prompts: pl.DataFrame) -> pl.DataFrame:
    """The cases whose prompt has a correction toward another target, with that one's `row` as `row_other`.

    `report_swapped`: the report with that target in place of the name that it says is moved toward.
    """
    other = prompts.filter(kind="counterfactual").select("prompt", "answer", other="target", row_other="row")
    pairs = cases.filter(pl.col("moved_to") != "").join(other, on=["prompt", "answer"], maintain_order="left")
    pairs = pairs.filter(pl.col("target") != pl.col("other")).unique("prompt_id", keep="first", maintain_order=True)
    names = pairs.select("report", "moved_to", "other").iter_rows()
    return pairs.with_columns(
        report_swapped=pl.Series([text.replace(to, new, 1) for text, to, new in names], dtype=pl.String)
    )
