"""Texts that may stand for a gradient: the report and what could stand in its place, and the names that each holds."""

import re
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import NamedTuple

import polars as pl

from ..data import grammar


class Named(NamedTuple):
    """The names that a text moves toward and away from; empty where it has none."""

    toward: str = ""
    away: str = ""


def reader_of(names: Iterable[str]) -> Callable[[str], Named]:
    """A function that finds the first of these names in a text that stands behind "from" or "not", and the first other.

    Nothing else of the text counts: without a known name it's an empty `Named`.
    """
    longest_first = sorted(filter(None, set(names)), key=lambda name: (-len(name), name))
    pattern = re.compile(rf"(?:\b(from|not) )?(?<!\w)({'|'.join(map(re.escape, longest_first))})(?!\w)")

    @cache
    def read(text: str) -> Named:
        found: dict[str, str] = {}
        for behind, name in pattern.findall(text):
            found.setdefault("away" if behind else "toward", name)
        return Named(**found)

    return read


def texts_of(cases: pl.DataFrame, lens: pl.DataFrame, forms: Mapping[str, str]) -> dict[str, list[str]]:
    """The texts that may stand for each case's gradient, by what they are; "" where there is none to be said.

    `cases`: reports (REPORTS) with label_* columns, in the order of prompt_id, a hash. `lens`: domain, moved_to and
    moved_from by the untrained lens. A shuffled report is that of the case before, of the same domain or of all;
    `form_*`: what the report says in each of the other `forms`.
    """
    report, domain = pl.col("report"), pl.col("gradient_domain")
    before = report.shift(1).fill_null(report.last())
    made = cases.select(
        "report",
        "target",
        "prompt",
        domain="a name from " + domain,
        empty=pl.lit(""),
        shuffled_within=before.over("gradient_domain"),
        shuffled_across=before,
    )
    said = cases.select(domain, "moved_to", "moved_from").rows()
    for name, form in forms.items():
        made = made.with_columns(pl.Series(f"form_{name}", in_form(form, said)))
    return made.to_dict(as_series=False) | {"label": sentences(cases, "label_"), "lens": sentences(lens)}


def in_form(form: str, said: Iterable[tuple[str, str, str]]) -> list[str]:
    """Sentences of this form about domain, name moved to and name moved from; "" where a name is missing."""
    return [form.format(domain=domain, to=to, away=away) if to and away else "" for domain, to, away in said]


def sentences(rows: pl.DataFrame, start: str = "") -> list[str]:
    """The report sentence of each row's domain, moved_to and moved_from (after `start`); "" where one is missing."""
    columns = rows.select(f"{start}{name}" for name in ("domain", "moved_to", "moved_from"))
    return [grammar.report(*row) if all(row) and row[1] != row[2] else "" for row in columns.iter_rows()]
