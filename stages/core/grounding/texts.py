"""Texts that may stand for a gradient: the report and what could stand in its place, and the names that each holds."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from itertools import chain

import numpy as np
import polars as pl
from jaxtyping import Float

from ..data import grammar

NAMES = ("domain", "moved_to", "moved_from")
Vectors = Float[np.ndarray, "_ ..."]


def reader_of(names: Iterable[str]) -> Callable[[str], grammar.Report]:
    """A function that finds the first of these names in a text that stands behind "from" or "not", and the first other.

    Nothing else of the text counts: without a known name it moves from nothing to nothing.
    """
    longest_first = sorted(filter(None, set(names)), key=lambda name: (-len(name), name))
    pattern = re.compile(rf"(?:\b(from|not) )?(?<!\w)({'|'.join(map(re.escape, longest_first))})(?!\w)")

    @cache
    def read(text: str) -> grammar.Report:
        found: dict[bool, str] = {}
        for behind, name in pattern.findall(text):
            found.setdefault(behind != "", name)
        return grammar.Report(moved_to=found.get(False, ""), moved_from=found.get(True, ""))

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
    others = {f"form_{name}": in_form(form, said) for name, form in forms.items()}
    return made.to_dict(as_series=False) | others | {"label": sentences(labels(cases)), "lens": sentences(lens)}


def labels(rows: pl.DataFrame) -> pl.DataFrame:
    """Domain, moved_to and moved_from of each row's label."""
    return rows.select(pl.col(f"label_{name}").alias(name) for name in NAMES)


def in_form(form: str, said: Iterable[tuple[str, str, str]]) -> list[str]:
    """Sentences of this form about domain, name moved to and name moved from; "" where a name is missing."""
    return [form.format(domain=domain, to=to, away=away) if to and away else "" for domain, to, away in said]


def sentences(rows: pl.DataFrame) -> list[str]:
    """The report sentence of each row's domain, moved_to and moved_from; "" where one is missing."""
    return [grammar.report(*row) if all(row) and row[1] != row[2] else "" for row in rows.select(NAMES).iter_rows()]


def once_each(make: Callable[[list[str]], Vectors], texts: Mapping[str, Sequence[str]]) -> dict[str, Vectors]:
    """What `make` makes of several sets of texts, equal ones made once."""
    number = {text: at for at, text in enumerate(dict.fromkeys(chain.from_iterable(texts.values())))}
    found = make(list(number))
    return {name: found[[number[text] for text in each]] for name, each in texts.items()}
