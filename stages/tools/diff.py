"""Compares a changed model with the model under study: what the change teaches at each prompt, in the model's words."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import polars as pl
import torch

from ..core.concepts.dictionary import load
from ..core.concepts.projection import made_of
from ..core.data.updates import scanned
from ..core.engine.changes import Changed, change_gradients
from ..core.engine.samples import BadRowsError
from ..core.grounding.reported import reports_of
from ..core.model.changes import Speaker
from ..core.model.decoder import Decoder
from ..core.reader.gate import FAINT
from ..core.reader.reader import Reader
from ..core.run.errors import InputError
from ..core.run.stage import progress
from .reading import check_letters, open_reader, quiet
from .table_page import check_output, write_rows
from .template import filled_in

FEATURES = 8
"""Features that a change is shown as."""


def diff(
    name: str, change: Callable[[Decoder], Speaker], prompts: str, output: Path, dictionaries: Sequence[str] = ()
) -> str:
    """What a terminal shows of a change, whose prompts go to `output` and its page to the same name with .html.

    Args:
        name: what the change is called.
        change: opens it for the model under study.
        prompts: see `read_prompts`.
        dictionaries: folders or names (see `load`) of dictionaries: the mean update over the prompts that are moved is
            shown as their features, at the first token that is said.

    Raises:
        InputError: the change, the prompts, a dictionary or the name of the output is wrong, or no model is there.
    """
    check_output(output)
    table, loaded = read_prompts(prompts), [load(each) for each in dictionaries]
    with quiet():
        reader, model, settings = open_reader()
        own = reader.card.layers
        layers = [*own, *sorted({each.layer for each in loaded}.difference(own))]
        for each in loaded:
            each.check(model, range(model.n_layers))
        found = compared(reader, change(reader.decoder), table["prompt"].to_list(), prompts, layers)
        gradient = found.gradient.reshape(len(table), -1, len(layers), model.d_model)  # [row, place, layer, d_model]
        found = replace(found, gradient=gradient[:, :, : len(own)].reshape(len(table), -1, model.d_model))
        table = table.with_columns(table_of(reader, found, settings.evaluation.report_tokens))
    update = -torch.from_numpy(gradient[found.distance >= FAINT, 0]).mean(0)
    table = table.sort("distance", "norm", descending=True, maintain_order=True)
    moved = table.filter(pl.col("distance") >= FAINT)
    toward: dict[str, float] = defaultdict(float)
    for word, distance in moved.filter(pl.col("toward") != "").select("toward", "distance").iter_rows():
        toward[word] += distance
    meant = table.filter(pl.col("completion").is_not_null())
    values = {
        "change": name,
        "prompts": prompts,
        "output": output.name,
        "faint": FAINT,
        "rows": len(table),
        "moved": moved.to_dicts(),
        "toward": sorted(toward.items(), key=lambda item: -item[1]),
        "meant": len(meant),
        "says": int((meant["after"] == meant["completion"]).sum()),
        "reports": int((meant["toward"] == meant["completion"]).sum()),
        "dictionaries": [made_of(each, update[layers.index(each.layer)], FEATURES) for each in loaded if len(moved)],
        "side_effects": moved.filter(pl.col("completion").is_null()).to_dicts() if len(meant) else [],
    }
    write_rows(table, output, "diff.html.j2", values)
    return filled_in("diff.txt.j2", **values)


def read_prompts(data: str) -> pl.DataFrame:
    """The distinct prompts of files that `scanned` takes: columns prompt and completion.

    `completion`: what the change was meant to teach there, without white space around it; null where nothing, or where
    the files have no such column.

    Raises:
        InputError: the files can't be read, hold no row or no column `prompt`, or a prompt is empty or no text.
    """
    table = scanned(data)
    kinds = [(column, table.schema.get(column)) for column in ("prompt", "completion") if column in table.columns]
    if ("prompt", pl.String) not in kinds or any(kind not in (pl.String, pl.Null) for _, kind in kinds):
        shown = ", ".join(f"{column} of {kind}" for column, kind in table.schema.items()) or "none"
        raise InputError(f"{data}: found columns {shown}, wanted prompt (text), and completion (text) or none")
    if "completion" not in table.columns:
        table = table.with_columns(completion=pl.lit(None))
    table = table.select("prompt", pl.col("completion").cast(pl.String).str.strip_chars())
    if bad := [line for line, text in enumerate(table["prompt"], 1) if not (text or "").strip()]:
        raise InputError(f"{data}: row {bad[0]}: found no prompt, wanted a text that ends right before the answer")
    return table.unique("prompt", keep="first", maintain_order=True)


def compared(
    reader: Reader, change: Speaker, texts: Sequence[str], source: str, layers: Sequence[int] | None = None
) -> Changed:
    """What a change does at each of some prompts, at these layers (None: those that the projector reads).

    Raises:
        InputError: a prompt can't be measured; names it and `source`.
    """
    decoder, card = reader.decoder, reader.card
    for text in texts:
        check_letters(reader, text, "prompt")
    try:
        with progress("prompts", len(texts)) as advance:
            return change_gradients(
                decoder,
                [decoder.tokens(text) for text in texts],
                change,
                layers or card.layers,
                card.places,
                tokens=len(card.places),
                advance=advance,
            )
    except BadRowsError as error:
        raise InputError(f"{source}: prompt {texts[error.rows[0]]!r}: {error.reason}") from error


def table_of(reader: Reader, found: Changed, tokens: int) -> pl.DataFrame:
    """What a change does, and what the model reports of it in at most `tokens` tokens; columns: docs/comparing.md."""
    said = {
        name: [reader.decoder.text(ids) for ids in each]
        for name, each in (("before", found.before), ("after", found.after))
    }
    return pl.DataFrame({**said, "distance": found.distance, **reports_of(reader, found.gradient, tokens, FAINT)})
