"""Measures whether the words of a report are what the gradient does: it is made again from its report's text alone.

Reads data/model/, the card of data/projector/, data/evaluation/reports.parquet and, of all domains, data/prompts,
data/gradients and data/labels. Writes data/grounding/: metrics.json and shares.parquet (a row a report). Params:
grounding, domains. No GPU is needed; the pocket model takes a minute on one core.

  python -m stages.grounding
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from .core.data.gathering import Stored, gather, taught
from .core.data.gradient_store import Store
from .core.data.places import FIRST, SUBJECT
from .core.data.tables import read_table, write_table
from .core.evaluate.baselines import lens
from .core.evaluate.estimate import to_json
from .core.evaluate.statistics import estimates
from .core.evaluate.table import REPORTS
from .core.grounding.features import Blocks, explained, words
from .core.grounding.head import Directions, cosines, reconstructed, shares
from .core.grounding.negatives import told_apart
from .core.grounding.reading import learned, reading
from .core.grounding.scores import GROUPS, step_scores, swapped, text_scores
from .core.grounding.section import Grounding
from .core.grounding.texts import in_form, reader_of, sentences, texts_of
from .core.model.opening import open_model
from .core.reader.card import read_projector_card
from .core.reader.vocabulary import Tokens
from .core.run.files import replacing, write_json
from .core.run.params import Domains, Section, read_sections
from .core.run.stage import parse, run

OUTPUT = Path("data/grounding")
SHARES = {
    "prompt_id": pl.String,
    "place": pl.String,
    "held_out": pl.String,
    "report": pl.String,
    "words": pl.Float32,  # share of the update direction's squared norm that the report's words explain, fitted
    "reading": pl.Float32,  # the same by the model's reading of the report
    "span": pl.Float32,  # the part of it in the span of the words' embeddings; nothing is fitted
}


class Sections(Section):
    """What this stage reads of params.yaml."""

    domains: Domains
    grounding: Grounding


def main() -> None:
    """Fits heads on training gradients, makes those of the reports again from their words, and scores that."""
    parse(__doc__, "grounding", by_domain=False)
    params = read_sections(Sections)
    how, (decoder, _) = params.grounding, open_model()
    last = read_projector_card(Path("data/projector")).layers[-1]
    data = gather(params.domains, [last]).corrections()
    assert isinstance(data.gradient, Stored)
    stores = data.gradient.stores
    layers, places = (stores[0].attributes[name] for name in ("layers", "places"))
    reports = read_table(Path("data/evaluation/reports.parquet"), REPORTS)
    cases = reported(reports, data.rows)
    train = taught(data.rows, "train").sort("prompt_id").filter(pl.int_range(pl.len()).over("domain") < how.rows)
    rows = {"train": train, "validation": taught(data.rows, "validation"), "cases": cases}
    rows["swapped"] = swapped(cases, data.rows)
    rows["other"] = rows["swapped"].select(row="row_other")

    tokens, lexicon = Tokens(decoder, output=True), dict(data.rows.select("target", "domain").iter_rows())
    read = reader_of({*lexicon, *data.rows["answer"].drop_nulls(), *cases["moved_to"], *cases["moved_from"]})
    lensed = lens(decoder, data.gradient[cases["row"].to_numpy()][:, 0], lexicon)
    texts = texts_of(cases, lensed, how.forms)
    every = texts | {name: sentences(rows[name], "label_") for name in ("train", "validation")}
    every["swapped"] = rows["swapped"]["report_swapped"].to_list()
    updates = {
        place: last_updates(stores, place, [layer for layer in layers if layer <= last], rows)
        for place in (FIRST, SUBJECT)
        if place in places
    }
    labels = train.select(f"label_{name}" for name in ("domain", "moved_to", "moved_from")).rows()
    lessons = [every["train"], *(in_form(form, labels) for form in list(how.forms.values())[:-1])]

    def read_by(seed: int, names: Iterable[str]) -> dict[str, Blocks]:
        middle = layers[len(layers) // 2]
        queries = learned(tokens, lessons, updates[FIRST][1]["train"], middle, seed)
        return {name: reading(tokens, every[name], middle, queries) for name in names}

    vectors = {
        "words": {name: words(tokens, list(map(read, each))) for name, each in every.items()},
        "reading": read_by(how.seeds[0], every),
    }
    said = list(map(read, texts["report"]))

    metrics: dict[str, Any] = {name: {} for name in ("layers", "grounding", "heads", "swapped", "acting", "negatives")}
    tables = []
    for place, (layer, own_updates) in updates.items():
        if layer is None:
            continue
        metrics["layers"][place], wanted = layer, own_updates["cases"]
        table, acts = {"span": explained(tokens, wanted, said)}, {"gradient": wanted}
        for name, own in vectors.items():
            found = reconstructed(own, own_updates)
            metrics["grounding"][f"{place}_{name}"] = text_scores({text: found[text] for text in texts}, wanted, cases)
            nearer = cosines(found["swapped"], own_updates["other"]) > cosines(found["swapped"], own_updates["swapped"])
            metrics["swapped"] |= estimates({f"{place}_{name}": nearer}, rows["swapped"]["target"].to_list())
            table[name] = shares(found["report"], wanted)
            acts |= {name: found["report"], f"{name}_shuffled": found["shuffled_across"]}
        table = cases.select("prompt_id", "held_out", "report", place=pl.lit(place)).with_columns(**table)
        tables.append(table.filter(pl.Series(np.asarray(wanted.any(1)))))
        if place == FIRST:
            for seed in how.seeds[1:]:
                found = reconstructed(read_by(seed, ("train", "validation", "report")), own_updates)
                metrics["heads"][f"seed_{seed}"] = text_scores({"report": found["report"]}, wanted, cases)["report"]
            metrics["acting"] = step_scores(decoder, cases, acts, layer, how.step_sizes)
            first = reports.filter(pl.col("seed") == cases["seed"][0])
            metrics["negatives"] = told_apart(tokens, first, cases, data, rows["train"])
    with replacing(OUTPUT) as partial:
        partial.mkdir()
        write_json(partial / "metrics.json", to_json(metrics))
        write_table(partial / "shares.parquet", pl.concat(tables), SHARES)
    seen = metrics["grounding"][f"{FIRST}_words"]["report"]["explained_seen"].value
    print(f"{OUTPUT}: {len(cases)} reports; their words explain {seen:.3f} of the update direction, nothing held out")


def reported(reports: pl.DataFrame, rows: pl.DataFrame) -> pl.DataFrame:
    """A report on each real gradient of GROUPS, behind a host of another domain, with the gradient's row and label."""
    foreign = pl.col("host_prompt_id").is_not_null() & (pl.col("host_domain") != pl.col("gradient_domain"))
    real = reports.filter((pl.col("condition") == "real") & pl.col("held_out").is_in(list(GROUPS)) & foreign)
    once = real.sort("prompt_id", "host_prompt_id", "seed").unique("prompt_id", keep="first", maintain_order=True)
    return once.join(rows.select("prompt_id", "row", "^label_.*$"), on="prompt_id", maintain_order="left")


def last_updates(
    stores: Sequence[Store], place: str, layers: Sequence[int], rows: Mapping[str, pl.DataFrame]
) -> tuple[int | None, dict[str, Directions]]:
    """The last of the layers where training rows have a gradient at this place, and the unit update directions there.

    None: there is no such layer. A row without a gradient there has zeros. Behind its last attention nothing depends
    on the subject's token, so that the last layer has none at `subject`.
    """
    for layer in sorted(layers, reverse=True):
        stored = Stored(stores, "gradient", [layer], [place])
        found = {name: -stored[each["row"].to_numpy()][:, 0] for name, each in rows.items()}
        if found["train"].any():
            norms = {name: np.linalg.norm(each, axis=1, keepdims=True) for name, each in found.items()}
            return layer, {name: each / np.maximum(norms[name], 1e-30) for name, each in found.items()}
    return None, {}


if __name__ == "__main__":
    run(main)
