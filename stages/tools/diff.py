"""Compares a changed model with the model under study: what the change teaches at each prompt, in the model's words."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

import polars as pl

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


def diff(name: str, change: Callable[[Decoder], Speaker], prompts: str, output: Path) -> str:
    """What a terminal shows of a change, whose prompts go to `output` and its page to the same name with .html.

    Args:
        name: what the change is called.
        change: opens it for the model under study.
        prompts: see `read_prompts`.

    Raises:
        InputError: the change, the prompts or the name of the output is wrong, or no model is there.
    """
    check_output(output)
    table = read_prompts(prompts)
    with quiet():
        reader, _, settings = open_reader()
        found = compared(reader, change(reader.decoder), table["prompt"].to_list(), prompts)
        table = table.with_columns(table_of(reader, found, settings.evaluation.report_tokens))
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


def compared(reader: Reader, change: Speaker, texts: Sequence[str], source: str) -> Changed:
    """What a change does at each of some prompts.

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
                card.layers,
                card.places,
                tokens=len(card.places),
                advance=advance,
            )
    except BadRowsError as error:
        raise InputError(f"{source}: prompt {texts[error.rows[0]]!r}: {error.reason}") from error


def table_of(reader: Reader, found: Changed, tokens: int) -> pl.DataFrame:
    """What a change does, and what the model reports of it in at most `tokens` tokens; columns: docs/comparing.md."""
    tokenizer = reader.decoder.tokenizer
    assert tokenizer is not None
    said = {
        name: [str(tokenizer.decode(list(ids))).strip() for ids in each]
        for name, each in (("before", found.before), ("after", found.after))
    }
    return pl.DataFrame({**said, "distance": found.distance, **reports_of(reader, found.gradient, tokens, FAINT)})
