"""Acting on words: virtual and real steps along directions, and what a model says after them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from ..engine.changes import said
from ..engine.samples import Sample, samples_of
from ..evaluate.estimate import Estimate
from ..evaluate.fine_tuning import sample_loss, trainable
from ..evaluate.statistics import estimates
from ..model.changes import speaker
from ..model.decoder import Decoder, residual
from ..steps.virtual_step import virtual_steps
from .features import Directions

NEIGHBOURS = 8
"""Prompts about other subjects that are asked after a real step."""
TOKENS = 3
"""Tokens that the model says at most."""


def virtual_scores(
    decoder: Decoder, cases: pl.DataFrame, found: Mapping[str, Directions], layer: int, sizes: Sequence[float]
) -> dict[str, Any]:
    """What virtual steps along directions do, where nothing is held out and one along the gradient itself does it.

    `toward`: the target's first token becomes the likeliest; `away`: the answer's is the token that falls most. Of each
    of the directions `found` (`gradient`: of all cases) and step sizes the share; intervals over target entities.
    """
    seen = (cases["held_out"] == "none").to_numpy()
    cases = cases.filter(pl.Series(seen))
    samples = samples_of(decoder, cases)
    answers = np.array([sample.answer[0] if sample.answer else -1 for sample in samples])[:, None]
    done = {way: {name: np.zeros((len(cases), len(sizes)), bool) for name in found} for way in ("toward", "away")}
    for name, directions in found.items():
        gradients = -directions[seen, None].astype(np.float32)
        steps = virtual_steps(decoder, samples, gradients, [layer], sizes, top_tokens=1, continuation_tokens=0)
        for batch in steps:
            done["toward"][name][batch.rows] = batch.target_rank[:, 0] == 1
            done["away"][name][batch.rows] = batch.down_ids[:, 0, :, 0] == answers[batch.rows]
    return {way: of_reached(marks, cases["target"], sizes) for way, marks in done.items()}


def of_reached(
    marks: Mapping[str, Bool[np.ndarray, "case size"]], targets: pl.Series, sizes: Sequence[float]
) -> dict[str, dict[str, Estimate]]:
    """By direction and size, the share of marks where `gradient` has one too; of its own marks the share of all."""
    scores: dict[str, dict[str, Estimate]] = {name: {} for name in marks}
    for step, size in enumerate(sizes):
        own = marks["gradient"][:, step]
        others = {name: each[own, step] for name, each in marks.items() if name != "gradient"}
        reached = targets.filter(pl.Series(own, dtype=pl.Boolean)).to_list()
        for name, one in (estimates({"gradient": own}, targets.to_list()) | estimates(others, reached)).items():
            scores[name][f"step_{size:g}"] = one
    return scores


def asked_after(cases: pl.DataFrame, prompts: pl.DataFrame, count: int) -> pl.DataFrame:
    """The first `count` of the cases in which nothing is held out, with what is asked after a step on each.

    Columns added: number (of the case), `paraphrase` (a prompt of the same relation and subject by another template)
    and `neighbours` (at most NEIGHBOURS prompts of the same relation and template about other subjects); cases without
    one of these are left out. `cases`: in the order of prompt_id, a hash, with relation, subject and template.
    """
    texts = prompts.sort("prompt_id").unique("prompt", keep="first", maintain_order=True)
    seen = cases.with_row_index("number").filter(held_out="none")

    def others(same: str, other: str, **taken: pl.Expr) -> pl.DataFrame:
        about = texts.select("relation", same, pl.col(other, "prompt").name.suffix("_other"))
        pairs = seen.join(about, on=["relation", same], maintain_order="left_right")
        return pairs.filter(pl.col(other) != pl.col(f"{other}_other")).group_by("number").agg(**taken)

    again = others("subject", "template", paraphrase=pl.col("prompt_other").first())
    beside = others("template", "subject", neighbours=pl.col("prompt_other").head(NEIGHBOURS))
    found = seen.join(again, on="number", maintain_order="left").join(beside, on="number", maintain_order="left")
    return found[:count]


def real_scores(
    decoder: Decoder,
    cases: pl.DataFrame,
    found: Mapping[str, Directions],
    layer: int,
    sizes: Sequence[float],
    advance: Callable[[int], None],
) -> dict[str, Any]:
    """How well a copy of the model that acts on words foretells what the model says after a step on a correction.

    The real step: one of SGD on the correction's loss, of all the blocks' weights. The copy's: one that moves the
    activation after `layer` at the last prompt token along a direction, by a backward pass from it. Both change the
    weights by the first of `sizes` times their norm. Then both are asked, for TOKENS greedy tokens at most, the prompt
    itself (`corrected`), the same by another template (`paraphrase`), and prompts about other subjects (`neighbours`;
    `changed`: those of them whose answer the real step changes): the share of answers that are the same, for each of
    the directions `found`, and for what is said before (`unchanged`). `toward` and `away`: as in `virtual_scores`, by
    the copy's steps of all sizes. Intervals over target entities. Weights are put back.

    `cases`: see `asked_after`; `found`: of all cases before these were chosen.
    """
    texts = cases.select("prompt", "paraphrase", "neighbours").iter_rows()
    asked = [[tuple(decoder.tokens(text)) for text in (prompt, again, *others)] for prompt, again, others in texts]
    samples, own = samples_of(decoder, cases), speaker(decoder.model)
    said_by: dict[str, list[np.ndarray]] = {name: [] for name in ("unchanged", "correction", *found)}
    marks = {way: {name: np.zeros((len(cases), len(sizes)), bool) for name in found} for way in ("toward", "away")}

    def logprobs(sample: Sample) -> Float[Tensor, " vocabulary"]:
        return own(torch.tensor([sample.prompt], device=decoder.device))[0, -1].log_softmax(-1)

    with trainable(decoder.blocks) as put_back:
        for row, (number, sample, prompts) in enumerate(zip(cases["number"], samples, asked, strict=True)):
            before, leaves = logprobs(sample), sample.answer or (-1,)
            for name, answers in said_by.items():
                for step, size in reversed([*enumerate(sizes)]):  # prompts are asked after the first one, taken last
                    put_back()
                    if name == "correction":
                        sgd_step(decoder.blocks, sample_loss(decoder, sample), size)
                    elif name != "unchanged":
                        stream = stream_at(decoder, sample.prompt, layer)
                        sgd_step(decoder.blocks, -(stream @ torch.from_numpy(found[name][number]).to(stream)), size)
                        now = logprobs(sample)
                        marks["toward"][name][row, step] = int(now.argmax()) == sample.target[0]
                        marks["away"][name][row, step] = int((now - before).argmin()) == leaves[0]
                answers.append(np.array([decoder.text(ids) for ids in said(decoder, prompts, own, TOKENS)]))
            put_back()
            advance(1)

    real, targets = said_by.pop("correction"), cases["target"].to_list()
    same = {name: [one == two for one, two in zip(each, real, strict=True)] for name, each in said_by.items()}
    at = [np.arange(len(each)) for each in asked]
    parts = {
        "corrected": [each == 0 for each in at],
        "paraphrase": [each == 1 for each in at],
        "neighbours": [each > 1 for each in at],
        "changed": [(each > 1) & ~as_before for each, as_before in zip(at, same["unchanged"], strict=True)],
    }
    scores: dict[str, Any] = {"steps": len(cases)}
    for part, kept in parts.items():
        rows = [row for row, each in enumerate(kept) if each.any()]
        shares = {name: np.array([each[row][kept[row]].mean() for row in rows]) for name, each in same.items()}
        scores[part] = estimates(shares, [targets[row] for row in rows])
    return scores | {way: of_reached(each, cases["target"], sizes) for way, each in marks.items()}


def stream_at(decoder: Decoder, prompt: Sequence[int], layer: int) -> Float[Tensor, " d_model"]:
    """The residual stream after a layer at the last prompt token, with the graph that leads to it."""
    kept: list[Tensor] = []
    with decoder.blocks[layer].register_forward_hook(lambda _module, _arguments, output: kept.append(residual(output))):
        decoder.body(input_ids=torch.tensor([prompt], device=decoder.device), use_cache=False)
    return kept[0][0, -1]


def sgd_step(module: nn.Module, loss: Float[Tensor, ""], size: float) -> None:
    """One step of SGD on a loss, that changes the module's weights by `size` times their norm."""
    weights = list(module.parameters())
    found = torch.autograd.grad(loss, weights, materialize_grads=True)  # zeros where the loss does not hang on one
    length = get_total_norm(found)
    with torch.no_grad():
        rate = size * get_total_norm(weights) / length.clamp_min(torch.finfo(length.dtype).tiny)
        for weight, each in zip(weights, found, strict=True):
            weight.sub_(rate.to(each) * each)
