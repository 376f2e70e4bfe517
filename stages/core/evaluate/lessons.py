"""Wrong facts to teach, and the share of what is taught that is then said."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from ..data.tables import PROMPTS, read_table
from .cases import COUNTERFACTUAL, SEEN, by_hash
from .estimate import Estimate
from .statistics import estimates

FACT = ["relation", "subject"]


def wrong_answers(domain: str) -> pl.DataFrame:
    """The prompts of a domain with a wrong answer each, in the order of a hash; nothing that is held out."""
    table = read_table(Path("data/prompts") / f"{domain}.parquet", PROMPTS).filter(SEEN & COUNTERFACTUAL)
    return by_hash(table, 0, "suppress", "prompt_id")


def one_a_fact(prompts: pl.DataFrame) -> pl.DataFrame:
    """The first prompt of each fact."""
    return prompts.unique(FACT, keep="first", maintain_order=True)


def named_facts(prompts: pl.DataFrame) -> list[str]:
    """What each prompt is about, in words."""
    return [": ".join(fact) for fact in prompts.select(FACT).iter_rows()]


def shares(rows: pl.DataFrame, by: Sequence[str]) -> Iterator[tuple[dict[str, Any], dict[str, Estimate]]]:
    """The values of `by`, and of each part of these rows the share that is said, over facts, crossed with seeds.

    `rows`: columns part, fact, seed and said (0 to 1) beside those of `by`.
    """
    for key, group in rows.group_by(by, maintain_order=True):
        parts = {
            str(part): estimates({"": each["said"].to_numpy()}, each["fact"].to_list(), seeds=each["seed"].to_list())
            for (part,), each in group.group_by("part", maintain_order=True)
        }
        yield dict(zip(by, key, strict=True)), {part: found[""] for part, found in parts.items()}


def flat_row(key: dict[str, Any], parts: dict[str, Estimate]) -> dict[str, Any]:
    """A row of a curve: shares, and behind them the ends of their intervals."""
    bounds = {f"{part}_{end}": getattr(each, end) for part, each in parts.items() for end in ("low", "high")}
    return {**key, **{part: each.value for part, each in parts.items()}, **bounds}
