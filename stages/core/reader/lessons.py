"""What a projector learns from: labelled gradients, the model's own reports on them, or words."""

from dataclasses import replace

import numpy as np
import polars as pl
import torch

from ..data.gathering import BLOCK_ROWS, Gathered, Stored, blocks, hosts, taught
from ..data.grammar import parse_report
from ..data.places import SUBJECT
from ..data.summaries import in_held_out_form
from ..model.decoder import Decoder
from ..model.opening import ModelCard
from ..run.errors import InputError
from ..run.stage import progress
from .card import Card
from .gate import FAINT
from .reader import Reader
from .reports import accounted_for, bare_reports
from .section import Projector
from .training import Curriculum, Lessons, new_card
from .words import Words


def curriculum(data: Gathered, split: str, reader: Reader, settings: Projector) -> Lessons:
    """The curriculum of a split for a reader's seed."""
    others = hosts(data.rows["domain"].unique(maintain_order=True), split)
    if settings.learns_from == "words":
        names = {name for column in ("target", "answer") for name in data.corrections().rows[column].drop_nulls()}
        return Words(reader, names, others, settings, reader.seed)
    free = settings.reports == "teacher"
    summary = pl.col("label_summary").cast(pl.String) if free else pl.lit("")
    lessons = (
        taught(data.rows.lazy(), split)
        .filter(~in_held_out_form(summary))
        .select(
            "row",
            *(["prompt"] if settings.differences else []),
            *([summary.alias("told")] if free else []),
            domain="label_domain",
            moved_to="label_moved_to",
            moved_from="label_moved_from",
        )
        .collect()
    )
    if lessons.is_empty():
        raise InputError(
            f"projector.learns_from: {settings.learns_from}: found none in split {split!r} that name two, wanted "
            "some; look at the teacher's agreement (dvc metrics show), or read the model's reports"
        )
    return Curriculum(data.gradient, data.activation, lessons, others, settings, reader.seed)


def card_for(decoder: Decoder, model: ModelCard, data: Gathered, settings: Projector) -> Card:
    """The card of the projectors to be trained; their reference norm is the median over training gradients, a layer.

    The norms are those at the first place. The median is that of all, which take 4 bytes a gradient and layer.
    """
    rows = data.rows.select("row", "split").filter(pl.col("split") == "train")["row"].to_numpy()
    first = slice(len(settings.layers))
    norms = torch.empty(len(data.layers), len(rows))
    for part, block in zip(norms.split(BLOCK_ROWS, dim=1), blocks(data.gradient, rows), strict=True):
        part[:] = torch.from_numpy(block[:, first]).norm(dim=-1).T
    return new_card(decoder, settings, model.id, model.commit, [layer.median().item() for layer in norms])


def lessons_of(decoder: Decoder, model: ModelCard, data: Gathered, settings: Projector) -> Gathered:
    """The gathered data with the labels that a projector learns from: a teacher's, or the model's own reports.

    With `learns_from: reports` the model reads the raw update directions at the target's tokens, after the last layer
    that is stored. What it reports there is the row's label at any other place, where its names account for enough of
    the gradient: `settings.gate` of the median over all rows.
    """
    if settings.learns_from != "reports":
        return data
    assert isinstance(data.gradient, Stored)
    stores = data.gradient.stores
    layers, places = (stores[0].attributes[name] for name in ("layers", "places"))
    plain = {"architecture": "raw", "layers": layers[-1:], "slots": 1, "whiten": False, "lora": None}
    plain |= {"places": [place for place in places if place != SUBJECT]}
    raw = settings.model_copy(update=plain)
    own = Stored(stores, "gradient", raw.layers, raw.places)
    seen = replace(data, gradient=own, layers=raw.layers, places=tuple(raw.places))
    reader = Reader.new(decoder, card_for(decoder, model, seen, raw), settings.seeds[0])
    known = data.rows.filter(pl.col("split").cast(pl.String).is_in(["train", "validation"]))["row"].to_numpy()
    reports, shares = [], []
    with progress("own reports", len(known)) as advance:
        for rows in np.array_split(known, max(1, len(known) // BLOCK_ROWS)):
            gradients = torch.from_numpy(own[rows])
            slots = reader.read(gradients)
            said = bare_reports(reader, slots)
            shares.append(accounted_for(reader, slots, said) * (reader.strength(gradients).mean(-1) >= FAINT))
            reports += map(parse_report, said)
            advance(len(rows))
    share = torch.cat(shares).cpu()
    labels = pl.DataFrame(
        {
            "row": pl.Series(known, dtype=data.rows["row"].dtype),
            "label_domain": [report.domain for report in reports],
            "label_moved_to": [report.moved_to for report in reports],
            "label_moved_from": [report.moved_from for report in reports],
        }
    ).filter(pl.Series((share >= settings.gate * share.median()).numpy()))
    rows = data.rows.drop(labels.columns[1:]).join(labels, on="row", how="left", maintain_order="left")
    return replace(data, rows=rows)
