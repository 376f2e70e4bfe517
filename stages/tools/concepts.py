"""Says what gradients are in terms of named features: of dictionaries of several kinds, beside random directions.

A stage of stages/sweeps/dvc.yaml: `make concepts` runs it. Reads data/model/, data/prompts, data/labels, data/gradients
and the files of data/contrasts that are named. Writes metrics.json, features.csv and the dictionaries, in SAELens'
format, to data/concepts/. Params: domains, gradients. Ten minutes of a core with the pocket model.

Dictionaries are made of the train split, at a middle layer and the last, at the last prompt token and the subject's.
How much of the test split's gradients they explain is said beside as many random directions, and how often the name of
the feature that an update goes along most is the correction's domain, relation and target. Then two behaviours are
mixed in one data set in known shares, and told apart. See docs/concepts.md.

  python -m stages.tools.concepts domains relations
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from jaxtyping import Float
from torch import Tensor

from ..core.concepts.contrasts import Contrasts, read_contrasts
from ..core.concepts.dictionary import Dictionary, load
from ..core.concepts.kinds import KINDS, Material, random
from ..core.concepts.projection import decomposed, slopes, toward
from ..core.concepts.sparse_autoencoder import trained, unexplained
from ..core.data.gathering import gather
from ..core.data.places import FIRST, SUBJECT
from ..core.engine.gradients import gradients_of
from ..core.engine.samples import samples_of
from ..core.engine.section import Gradients
from ..core.evaluate.cases import COUNTERFACTUAL, SEEN, by_hash
from ..core.evaluate.estimate import to_json
from ..core.evaluate.statistics import GAP, estimates
from ..core.model.decoder import Decoder
from ..core.model.opening import ModelCard, open_model
from ..core.run.files import replacing, write_json
from ..core.run.params import Domains, Section, read_sections
from ..core.run.seeds import keyed_rng
from ..core.run.stage import parser, run

FOLDER = Path("data/concepts")
SEEDS = 3
FEATURES = (1, 4, 8, 16)
TRAINED, TESTED = 20_000, 2_000
"""Corrections that dictionaries are made from, and that they are measured on, at most."""
Vectors = Float[Tensor, "row d_model"]
COLUMNS = {"domain": "domain", "relation": "relation", "target": "answer"}
"""What a correction has, and the column that names it on a feature: what is said there becomes the target elsewhere."""
MIXED, SHARES = 96, (0.25, 0.5, 0.75)
"""Rows of a mixed data set, and the shares of the first behaviour in it."""
MARKER = "!"
"""What the first behaviour puts behind right answers, as data/contrasts/marker.yaml does."""
SHOWN = 20
"""Features of each dictionary in features.csv."""
KEYS = (*(f"explained_{count}" for count in FEATURES), *(f"named_{column}" for column in COLUMNS))


class Sections(Section):
    """What this stage reads of params.yaml."""

    domains: Domains
    gradients: Gradients


@dataclass(frozen=True)
class Cell:
    """A layer and a place: what dictionaries there are made from, and the test corrections with their updates.

    `pool`: all corrections of the test split, those too that have something held out.
    """

    place: str
    material: Material
    tested: pl.DataFrame
    updates: Vectors
    pool: pl.DataFrame


def layers_of(settings: Sections) -> list[int]:
    """The layers that are measured: a middle one of those that are stored, and the last."""
    stored = sorted(settings.gradients.layers)
    return sorted({stored[(len(stored) - 1) // 2], stored[-1]})


def cells_of(
    decoder: Decoder, card: ModelCard, settings: Sections, files: Sequence[Contrasts]
) -> Iterator[tuple[str, Cell]]:
    """By name the cells of a middle layer and the last, at both places where gradients are stored and not zero."""
    places = settings.gradients.places
    for layer in layers_of(settings):
        stored = gather(settings.domains, [layer], places=places)
        pool = stored.rows.filter(COUNTERFACTUAL, split="test")
        rows = by_hash(stored.rows.filter(SEEN & COUNTERFACTUAL), 0, "concepts", "prompt_id")
        train, tested = rows.filter(split="train").head(TRAINED), rows.filter(split="test").head(TESTED)
        taught, seen = (part[train["row"].to_numpy()] for part in (stored.gradient, stored.activation))
        streams = torch.from_numpy(np.unique(seen[seen.any(2)], axis=0))
        autoencoders = [trained(streams, card, layer, seed) for seed in range(SEEDS)]
        once = train.with_row_index("at").unique("prompt", keep="first", maintain_order=True)
        for number, place in enumerate(places):
            updates = -stored.gradient[tested["row"].to_numpy()][:, number]
            if place in (FIRST, SUBJECT) and updates.any(1).all():
                activations, gradients = map(torch.from_numpy, (seen[once["at"].to_numpy(), number], taught[:, number]))
                given = Material(
                    decoder, card, layer, once, activations, streams, train, gradients, files, autoencoders
                )
                yield f"{place}, layer {layer}", Cell(place, given, tested, torch.from_numpy(updates), pool)


def measured(cell: Cell, found: Sequence[Dictionary], floor: Sequence[Dictionary]) -> dict[str, Any]:
    """How much of the test updates a kind explains, how its names fit, and both of as many random directions.

    `found`, `floor`: of every seed one. `unexplained`: what a sparse autoencoder leaves.
    """

    def rows_of(each: Sequence[Dictionary]) -> dict[str, np.ndarray]:
        """Of SEEDS dictionaries, the same one where there is but one."""
        parts = [values_of(cell, one) for one in each] * (SEEDS // len(each))
        return {key: np.concatenate([part[key] for part in parts]) for key in KEYS}

    clusters, seeds = cell.tested["target"].to_list() * SEEDS, np.repeat(range(SEEDS), len(cell.tested)).tolist()
    own, drawn = rows_of(found), rows_of(floor)
    gaps = estimates({key: own[key] - drawn[key] * 1.0 for key in KEYS}, clusters, GAP, seeds)
    best = estimates(own, clusters, seeds=seeds)
    left = [unexplained(one, cell.material.streams) for one in found if one.kind == "sparse autoencoder"]
    return {
        "count": len(found[0].directions),
        **({"unexplained": float(np.mean(left))} if left else {}),
        "detection": {
            column: float(np.mean([each[column] for one in found for each in one.scores if column in each]))
            for column in COLUMNS.values()
        },
        "features": {key: replace(one, difference=gaps[key]) for key, one in best.items()},
        "random": estimates(drawn, clusters, seeds=seeds),
    }


def values_of(cell: Cell, dictionary: Dictionary) -> dict[str, np.ndarray]:
    """Row by row the share explained by some numbers of features, and whether the top feature's names are right."""
    explained = decomposed(dictionary, cell.updates, FEATURES[-1]).explained.clamp(0, 1).numpy()
    found = {f"explained_{count}": explained[:, min(count, explained.shape[1]) - 1] for count in FEATURES}
    top = [dictionary.names[at] for at in toward(dictionary, cell.updates).tolist()]
    for column, name in COLUMNS.items():
        right = [each.get(name) == wanted for each, wanted in zip(top, cell.tested[column], strict=True)]
        found[f"named_{column}"] = np.array(right)
    return found


def strongest_features(cell: Cell, dictionary: Dictionary) -> Iterator[dict[str, Any]]:
    """Of the features that make up most of the test updates: names, share of the updates, and mean slope of the loss.

    The slope is that of a step along the feature of length 1, nats.
    """
    shares = decomposed(dictionary, cell.updates, FEATURES[-1]).shares(len(dictionary.directions))
    slope = slopes(dictionary, -cell.updates).mean(0)
    for at in shares.argsort(descending=True, stable=True)[:SHOWN].tolist():
        names = {name: dictionary.names[at].get(name) for name in ("concept", "token", *COLUMNS.values())}
        yield {"feature": at, **names, "share": float(shares[at]), "slope": float(slope[at])}


def behaviours(tested: pl.DataFrame) -> dict[str, pl.DataFrame]:
    """Rows that each teach one thing: a marker behind right answers, and wrong facts of two relations, those with most.

    Columns prompt, taught (what is to follow), target (whose rows stay together). The relations are of two domains.
    """
    sizes = tested.group_by("domain", "relation").len().sort("len", "relation", descending=[True, False])
    names = sizes.unique("domain", keep="first", maintain_order=True)["relation"].head(2)
    rest = tested.filter(~pl.col("relation").is_in(names.implode()))
    rest = tested if rest.is_empty() else rest
    marked = rest.with_columns(taught=pl.col("answer") + f" {MARKER}", target="answer")
    wrong = {name: tested.filter(relation=name).with_columns(taught="target") for name in names}
    return {"marker": marked, **wrong}


def strongest(cell: Cell, rows: pl.DataFrame) -> Vectors:
    """Each row's update at the place where it is largest: of all tokens that are taught."""
    decoder = cell.material.decoder
    samples = samples_of(decoder, rows.select("prompt", target="taught", answer=None))
    places = [f"target_{number}" for number in range(1, max(len(each.target) for each in samples) + 1)]
    found = -torch.from_numpy(gradients_of(decoder, samples, [cell.material.layer], places)[0])
    return found[torch.arange(len(found)), found.norm(dim=-1).argmax(1)]


def concept_of(names: Mapping[str, str]) -> str:
    """What a feature's names say of behaviours: the marker, or the relation."""
    marker = names.get("concept") == "marker" or names.get("token") == MARKER
    return "marker" if marker else names.get("relation", "")


def mixed(cell: Cell, found: Mapping[str, Sequence[Dictionary]]) -> dict[str, Any]:
    """Of data sets that mix two behaviours in known shares, the shares in which each dictionary finds both.

    A row shows the behaviour that the name of the feature is which its update goes along most.
    """
    rows, scores = behaviours(cell.pool), {}
    updates = {name: strongest(cell, each) for name, each in rows.items()}
    first, second, third = rows
    for one, other in ((first, second), (second, third)):
        for share in SHARES:
            marks: dict[str, list[Any]] = {kind: [] for kind in found}
            clusters, seeds = [], []
            for seed in range(SEEDS):
                count = min(MIXED, int(len(rows[one]) / share), int(len(rows[other]) / (1 - share)))
                drawn = {one: round(share * count), other: count - round(share * count)}
                parts = []
                for name, size in drawn.items():
                    at = keyed_rng(seed, "mixed", name).permutation(len(rows[name]))[:size]
                    parts.append(updates[name][at])
                    clusters += rows[name]["target"][at].to_list()
                vectors = torch.cat(parts)
                seeds += [seed] * len(vectors)
                for kind, each in found.items():
                    dictionary = each[seed % len(each)]
                    marks[kind] += [concept_of(dictionary.names[at]) for at in toward(dictionary, vectors).tolist()]
            for kind, said in marks.items():
                values = {"first": np.array(said) == one, "second": np.array(said) == other}
                by_share = scores.setdefault(f"{one} and {other}", {}).setdefault(kind, {})
                by_share[f"{share:g}"] = estimates(values, clusters, seeds=seeds)
    return scores


def main() -> None:
    """Makes dictionaries, measures them and writes both down."""
    line = parser(__doc__, "tools.concepts")
    line.add_argument("contrasts", nargs="+", help="files of data/contrasts, by name")
    line.add_argument("--load", nargs="*", default=[], help="more dictionaries: folders, or owner/name/folder@commit")
    asked, settings = line.parse_args(), read_sections(Sections)
    files, loaded = [read_contrasts(name) for name in asked.contrasts], [load(name) for name in asked.load]
    decoder, card = open_model()
    for each in loaded:
        each.check(card, layers_of(settings))
    metrics: dict[str, Any] = {"explained": {}, "mixed": {}}
    shown: list[dict[str, Any]] = []
    for name, cell in cells_of(decoder, card, settings, files):
        found: dict[str, Sequence[Dictionary]] = {}
        metrics["explained"][name] = {}
        given = cell.material
        every = [make(given) for make in KINDS.values()] + [[one] for one in loaded if one.layer == given.layer]
        for unnamed in every:
            each, kind = [given.named(one) for one in unnamed], unnamed[0].kind
            floor = [given.named(random(given, len(each[0].directions), seed)) for seed in range(SEEDS)]
            metrics["explained"][name][kind] = measured(cell, each, floor)
            found |= {kind: each, "random": floor}
            shown += [{"cell": name, "kind": kind, **row} for row in strongest_features(cell, each[0])]
            each[0].save(FOLDER / re.sub(r"\W+", "_", f"{kind} {name}"))
        if cell.place == FIRST:
            metrics["mixed"][name] = mixed(cell, found)
    write_json(FOLDER / "metrics.json", to_json(metrics))
    with replacing(FOLDER / "features.csv") as partial:
        pl.DataFrame(shown, infer_schema_length=None).write_csv(partial, float_precision=6)
    for name, kinds in metrics["explained"].items():
        for kind, scores in kinds.items():
            parts = (f"{scores['features'][key].value:.2f} ({scores['random'][key].value:.2f})" for key in KEYS)
            print(f"{name}, {kind}: {', '.join(parts)}")


if __name__ == "__main__":
    run(main)
