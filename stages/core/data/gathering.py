"""All domains' rows in one table, with their gradients: what the gathering stages (projector, evaluation) work on.

The list of domains comes from params.yaml, never from a folder, so that a removed domain leaves no trace.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from jaxtyping import Float

from ..run.errors import InputError
from .gradient_store import read_store
from .tables import LABELS, PROMPTS, read_table


@dataclass(frozen=True)
class Gathered:
    """What is gathered.

    `rows`: the prompts table of all domains with `row` (index into `gradient`) and label_* columns (null: no label).
    """

    rows: pl.DataFrame
    gradient: Float[np.ndarray, "sample layer d_model"]
    activation: Float[np.ndarray, "sample layer d_model"]
    layers: list[int]


def gather(domains: Sequence[str], layers: Sequence[int]) -> Gathered:
    """Reads prompts, labels and gradients (of these layers) of the domains.

    Raises:
        InputError: a table or store is missing, broken or of other prompts, or a layer is not in the stores.
    """
    tables, gradients, activations = [], [], []
    for domain in domains:
        prompts = read_table(Path("data/prompts") / f"{domain}.parquet", PROMPTS)
        labels = read_table(Path("data/labels") / f"{domain}.parquet", LABELS)
        path = Path("data/gradients") / f"{domain}.zarr"
        store = read_store(path, prompts["prompt_id"].to_list())
        stored = store.attributes["layers"]
        for layer in layers:
            if layer not in stored:
                raise InputError(
                    f"params.yaml: projector.layers: found {layer}, {path} holds {stored}; add it to gradients.layers"
                )
        at = [stored.index(layer) for layer in layers]
        gradients.append(store.gradient[:, at])
        activations.append(store.activation[:, at])
        named = {name: f"label_{name}" for name in LABELS if name != "prompt_id"}
        tables.append(prompts.join(labels.rename(named), on="prompt_id", how="left", maintain_order="left"))
    rows = pl.concat(tables).with_row_index("row")
    return Gathered(rows, np.concatenate(gradients), np.concatenate(activations), list(layers))


def usable() -> pl.Expr:
    """Rows whose label names a move between two entities."""
    return (
        (pl.col("label_moved_to") != "")
        & (pl.col("label_moved_from") != "")
        & (pl.col("label_moved_to") != pl.col("label_moved_from"))
    )


def taught(rows: pl.DataFrame, split: str) -> pl.DataFrame:
    """The rows of a split that a projector is taught from: a usable label, nothing held out.

    Neither is a held-out target in the label, which may be wrong, as the entity moved to.
    """
    chosen = rows.filter((pl.col("split") == split) & (pl.col("held_out") == "none") & usable())
    return chosen.filter(~pl.col("label_moved_to").is_in(list(held_out_targets(rows))))


def held_out_targets(rows: pl.DataFrame) -> set[str]:
    """The entities that are held out as targets: no training report may name one as moved to."""
    return set(rows.filter(pl.col("held_out") == "target")["target"])


def hosts(rows: pl.DataFrame, split: str) -> dict[str, list[str]]:
    """The distinct prompts of a split with nothing held out, by domain."""
    found = rows.filter((pl.col("split") == split) & (pl.col("held_out") == "none"))
    return {
        str(name): part["prompt"].unique(maintain_order=True).to_list()
        for (name,), part in found.group_by("domain", maintain_order=True)
    }
