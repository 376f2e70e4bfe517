"""Which reports and answers the page shows: chosen by a rule, so that nobody picks them.

Every report has one setting (what was done) and one outcome (how it came out). Of each setting and outcome the page
shows the first few in the order of a hash of the report's identity, which has nothing to do with what it says; so with
answers to questions.
"""

from typing import Any

import polars as pl

from ..run.seeds import digest
from .groups import place_of
from .prose import entries

OUTCOMES = entries("outcomes.yaml")
TAKEN = 2
"""Answers shown of each model and kind."""


def settled(reports: pl.DataFrame) -> pl.DataFrame:
    """The reports in hash order, with the columns `setting` (a key as in metrics.json), `outcome` and `order`."""
    right = pl.sum_horizontal("domain_right", "target_right", "answer_right")
    outcome = pl.coalesce(  # the first that holds
        pl.when("malformed").then(pl.lit("malformed")),
        pl.when(~pl.col("pressure")).then(pl.lit("silent")),
        pl.when(right == 3).then(pl.lit("right")),
        pl.when("host_intrusion").then(pl.lit("host")),
        pl.when(right > 0).then(pl.lit("partly")),
        pl.lit("wrong"),
    )
    held_out, host = pl.col("held_out"), pl.col("host_domain")
    setting = pl.coalesce(
        pl.when(pl.col("condition") != "real").then("controls." + pl.col("condition")),
        pl.when(held_out == "correction").then(pl.lit("corrections")),
        pl.when(held_out != "none").then("held_out_" + held_out),
        pl.when(host == "none").then(pl.lit("no_host")),
        pl.when(host == pl.col("gradient_domain")).then(pl.lit("same_domain")),
        pl.lit("decoupling"),
    )
    identity = reports.select("prompt_id", pl.col("host_prompt_id").fill_null(""), "condition", "held_out", "seed")
    order = pl.Series("order", [digest(*row) for row in identity.iter_rows()], dtype=pl.String)
    return reports.with_columns(setting.alias("setting"), outcome.alias("outcome"), order).sort("order")


def chosen(table: pl.DataFrame, examples: int) -> list[dict[str, Any]]:
    """The rows of a `settled` table to show: the first `examples` of each setting and outcome.

    Settings stand as `settings_of` says; in each, the outcomes take turns, so that right and wrong ones stand together.
    """
    turns = table.with_columns(turn=pl.int_range(pl.len()).over("setting", "outcome")).filter(pl.col("turn") < examples)
    setting = pl.col("setting").cast(pl.Enum(settings_of(table)))
    outcome = pl.col("outcome").cast(pl.Enum(list(OUTCOMES)))
    return turns.sort(setting, "turn", outcome).drop("turn").to_dicts()


def settings_of(table: pl.DataFrame) -> list[str]:
    """The settings that occur, in the order of the conditions."""
    return sorted(table["setting"].unique(), key=lambda key: (place_of(key), key))


def counts(table: pl.DataFrame) -> dict[str, dict[str, int]]:
    """How many reports of each setting had each outcome; settings and outcomes in the order they are shown in."""
    rows = table.group_by("setting", "outcome").len().iter_rows()
    sizes = {(setting, outcome): size for setting, outcome, size in rows}
    return {setting: {one: sizes.get((setting, one), 0) for one in OUTCOMES} for setting in settings_of(table)}


def answered(answers: pl.DataFrame, reports: pl.DataFrame) -> list[dict[str, Any]]:
    """Questions to a model's own knowledge, in relations that slots were never asked, with what every reading says.

    Of each model, of facts that are the world's and of those that are not, of right and of wrong answers about the
    update as it is: the first TAKEN in hash order.
    """
    identity = ["model", "prompt_id", "asks"]
    new = answers.filter((pl.col("form") == "foreign") & (pl.col("reading") != "asked"))
    said = new.pivot("reading", index=identity, values="said") if len(new) else new
    rows = new.filter(pl.col("reading") == "raw").join(said, on=identity, maintain_order="left")
    rows = rows.with_columns(own=pl.col("expected") != pl.col("world"))
    return first_of(rows, reports, identity, ["model", "own", "right"], TAKEN)


def questions(answers: pl.DataFrame, reports: pl.DataFrame) -> list[dict[str, Any]]:
    """A right and a wrong answer to each question in its held-out form: the first in hash order."""
    rows = answers.filter((pl.col("form") == "held_out") & (pl.col("reading") == "asked"))
    return first_of(rows, reports, ["prompt_id", "asks"], ["asks", "right"], 1)


def first_of(
    rows: pl.DataFrame, reports: pl.DataFrame, identity: list[str], kinds: list[str], count: int
) -> list[dict[str, Any]]:
    """The first rows of each kind by hash of their identity, with the correction's prompt and answer."""
    order = pl.Series("order", [digest(*row) for row in rows.select(identity).iter_rows()], dtype=pl.String)
    turns = rows.with_columns(order).sort("order").filter(pl.int_range(pl.len()).over(kinds) < count)
    real = reports.filter(pl.col("condition") == "real").unique("prompt_id", maintain_order=True)
    shown = turns.join(real.select("prompt_id", "prompt", "answer"), on="prompt_id", maintain_order="left")
    first = pl.col(kinds[0]).cast(pl.Enum(rows[kinds[0]].unique(maintain_order=True)))
    return shown.sort(first, *kinds[1:], "order", descending=[False, *(True for _ in kinds[1:]), False]).to_dicts()
