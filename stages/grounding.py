"""Measures whether the words of a report are what the gradient does: it is made again from its report's text alone.

Reads data/model/, the card of data/projector/, data/evaluation/reports.parquet and, of all domains, data/prompts,
data/gradients and data/labels. Writes data/grounding/: metrics.json and shares.parquet (a row a report). Params:
grounding, domains. No GPU is needed; the pocket model takes a minute and a half on two cores.

  python -m stages.grounding
"""

from collections.abc import Mapping, Sequence
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
from .core.grounding.acting import asked_after, real_scores, virtual_scores
from .core.grounding.features import Directions, cosines, explained, reconstructed, shares, words
from .core.grounding.reading import learned, reading
from .core.grounding.scores import GROUPS, swapped, text_scores, told_apart
from .core.grounding.section import Grounding
from .core.grounding.texts import in_form, labels, once_each, reader_of, sentences, texts_of
from .core.model.opening import open_model
from .core.reader.card import read_projector_card
from .core.reader.vocabulary import Tokens
from .core.run.files import replacing, write_json
from .core.run.params import Domains, Section, read_sections
from .core.run.stage import parse, progress, run

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
Updates = dict[str, Directions]
"""Of the rows of each table the unit update directions at one place, zeros where a row has none."""


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
    stores, tokens = data.gradient.stores, Tokens(decoder, output=True)
    reports = read_table(Path("data/evaluation/reports.parquet"), REPORTS)
    rows = rows_of(reports, data.rows, how.rows)
    cases, updates = rows["cases"], last_updates(stores, last, rows)

    lexicon = dict(data.rows.select("target", "domain").iter_rows())
    read = reader_of({*lexicon, *data.rows["answer"].drop_nulls(), *cases["moved_to"], *cases["moved_from"]})
    texts = texts_of(cases, lens(decoder, data.gradient[cases["row"].to_numpy()][:, 0], lexicon), how.forms)
    every = texts | {name: sentences(labels(rows[name])) for name in ("train", "validation")}
    every["swapped"] = rows["swapped"]["report_swapped"].to_list()
    layers, named = stores[0].attributes["layers"], labels(rows["train"]).rows()
    lessons = [every["train"], *(in_form(form, named) for form in list(how.forms.values())[:-1])]
    middle = layers[len(layers) // 2]
    heads = learned(tokens, lessons, updates[FIRST][1]["train"], middle, how.seeds)
    readings = reading(tokens, every, middle, heads)
    vectors = {"words": once_each(lambda some: words(tokens, list(map(read, some))), every), "reading": readings[0]}

    metrics: dict[str, Any] = {"layers": {}, "grounding": {}, "swapped": {}, "heads": {}}
    tables, said = [], list(map(read, texts["report"]))
    for place, (layer, own) in updates.items():
        made = {name: reconstructed(each, own) for name, each in vectors.items()}
        metrics["layers"][place], wanted = layer, own["cases"]
        for name, found in made.items():
            metrics["grounding"][f"{place}_{name}"] = {text: text_scores(found[text], wanted, cases) for text in texts}
            nearer = cosines(found["swapped"], own["other"]) > cosines(found["swapped"], own["swapped"])
            metrics["swapped"] |= estimates({f"{place}_{name}": nearer}, rows["swapped"]["target"].to_list())
        table = {name: shares(found["report"], wanted) for name, found in made.items()}
        about = cases.select("prompt_id", "held_out", "report", place=pl.lit(place))
        about = about.with_columns(**table, span=explained(tokens, wanted, said))
        tables.append(about.filter(pl.Series(np.asarray(wanted.any(1)))))
        if place == FIRST:
            acts = acts_of(wanted, made, list(how.forms)[-1])
            metrics["acting"] = virtual_scores(decoder, cases, acts, layer, how.step_sizes)
            after = asked_after(cases, data.rows, how.real_steps)
            with progress("real steps", len(after)) as advance:
                metrics["real"] = real_scores(decoder, after, acts, layer, how.real_sizes, advance)
            for seed, each in zip(how.seeds[1:], readings[1:], strict=True):
                found = reconstructed({name: each[name] for name in ("train", "validation", "report")}, own)
                metrics["heads"][f"seed_{seed}"] = text_scores(found["report"], wanted, cases)
    first = reports.filter(pl.col("seed") == cases["seed"][0])
    metrics["negatives"] = told_apart(tokens, first, cases, data, rows["train"])
    with replacing(OUTPUT) as partial:
        partial.mkdir()
        write_json(partial / "metrics.json", to_json(metrics))
        write_table(partial / "shares.parquet", pl.concat(tables), SHARES)
    seen = metrics["grounding"][f"{FIRST}_words"]["report"]["explained_seen"].value
    print(f"{OUTPUT}: {len(cases)} reports; their words explain {seen:.3f} of the update direction, nothing held out")


def rows_of(reports: pl.DataFrame, prompts: pl.DataFrame, count: int) -> dict[str, pl.DataFrame]:
    """The rows that take part: train (`count` a domain), validation, cases, swapped, and other: whose target those get.

    A case is a report on a real gradient of GROUPS, behind a host of another domain, with the gradient's row and label.
    """
    foreign = pl.col("host_prompt_id").is_not_null() & (pl.col("host_domain") != pl.col("gradient_domain"))
    real = reports.filter((pl.col("condition") == "real") & pl.col("held_out").is_in(list(GROUPS)) & foreign)
    once = real.sort("prompt_id", "host_prompt_id", "seed").unique("prompt_id", keep="first", maintain_order=True)
    cases = once.join(
        prompts.select("prompt_id", "row", "relation", "subject", "template", "^label_.*$"),
        on="prompt_id",
        maintain_order="left",
    )
    train = taught(prompts, "train").sort("prompt_id").filter(pl.int_range(pl.len()).over("domain") < count)
    pairs = swapped(cases, prompts)
    return {
        "train": train,
        "validation": taught(prompts, "validation"),
        "cases": cases,
        "swapped": pairs,
        "other": pairs.select(row="row_other"),
    }


def acts_of(own: Directions, made: Mapping[str, Updates], form: str) -> Updates:
    """The directions that steps are taken along: the gradients' own, and those made from reports and other texts."""
    acts = {"gradient": own} | {name: found["report"] for name, found in made.items()}
    acts |= {f"{name}_shuffled": found["shuffled_across"] for name, found in made.items()}
    others = {"form": f"form_{form}", "label": "label", "lens": "lens", "prompt": "prompt"}
    return acts | {name: made["reading"][text] for name, text in others.items()}


def last_updates(
    stores: Sequence[Store], last: int, rows: Mapping[str, pl.DataFrame]
) -> dict[str, tuple[int, Updates]]:
    """At each place the last layer, up to `last`, where training rows have a gradient, and the updates there.

    Behind its last attention nothing depends on the subject's token, so that the last layer has none at `subject`.
    """
    layers, places = (stores[0].attributes[name] for name in ("layers", "places"))
    updates = {}
    for place in (FIRST, SUBJECT):
        for layer in sorted((each for each in layers if each <= last), reverse=True) if place in places else ():
            stored = Stored(stores, "gradient", [layer], [place])
            found = {name: -stored[each["row"].to_numpy()][:, 0] for name, each in rows.items()}
            if found["train"].any():
                norms = {name: np.linalg.norm(each, axis=1, keepdims=True) for name, each in found.items()}
                updates[place] = layer, {name: each / np.maximum(norms[name], 1e-30) for name, each in found.items()}
                break
    return updates


if __name__ == "__main__":
    run(main)
