"""Measures whether an audit's reports find rewards of the wrong sign among the pocket model's own samples.

Of ROWS prompts, each with a name of its relation that the model itself gives some probability (drawn from its softmax
over these names' first tokens at TEMPERATURE), those that say the fact are rewarded with 1 and the others with -1. In
SHARE of the rows the sign is turned: a wrong answer is reinforced, or a right one penalised. `gradaware audit` reads
the rows. Two rules flag a row: its report goes away from what the model says of that prompt, greedily (`away`); or it
does that or goes toward something else (`either`). Beside them the same rules on what an untrained lens names in the
gradient, by first tokens; the loss and the gradient's norm, above or below the threshold that does best with hindsight;
the loss and the sign of the reward, likewise; and a rule that sees text, reward and what the model says. Reports, lens
and norm are told neither the reward nor the fact. Loss and norm are the same at either sign, so that they can't help.

Every row is audited with its sign right and with its sign turned. Recall is the share of the turned rows that is
flagged, false alarms that of the right ones; the precision where SHARE of the rows are turned follows from both. `file`
is one file in which SHARE of them are, drawn by hash. All of this over all prompts, and over those in which the model
believes what the facts say. Writes tests/benchmarks/results/audit.json.

  python -m tests.benchmarks.audit    on a finished run of the defaults; a minute of processor time
"""

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import polars as pl
import torch
from jaxtyping import Bool, Float

from stages.core.data.facts import World, read_domain
from stages.core.data.tables import PROMPTS, read_table
from stages.core.data.updates import read_updates
from stages.core.engine.updates import update_gradients
from stages.core.evaluate.answers import entity, say
from stages.core.evaluate.baselines import lens
from stages.core.evaluate.edits import by_hash
from stages.core.evaluate.estimate import to_json
from stages.core.evaluate.statistics import estimates
from stages.core.reader.reader import Reader
from stages.core.run.errors import InputError
from stages.core.run.files import write_json
from stages.core.run.params import Domains
from stages.core.run.seeds import keyed_rng
from stages.tools import audit
from stages.tools.reading import open_reader

RESULTS = Path(__file__).parent / "results/audit.json"
ROWS, SHARE, TEMPERATURE = 2000, 0.01, 3.0
Marks = Bool[np.ndarray, " row"]


def samples(reader: Reader, domains: Domains, world: World) -> pl.DataFrame:
    """Rows of the file: prompt, subject, fact, what the model says (own) and what it is taken to have said (said)."""
    tables = [read_table(Path(f"data/prompts/{name}.parquet"), PROMPTS) for name in domains]
    table = pl.concat(tables).filter(kind="counterfactual").unique("prompt", maintain_order=True)
    names = {name: sorted(relation.entities) for _, name, relation in world.relations}
    table = by_hash(table, 0, "audit", "prompt_id")[: ROWS * 2]
    written = say(reader, table["prompt"].to_list(), None, 8)
    own = [entity(text, names[of]) for text, of in zip(written, table["relation"], strict=True)]
    table = table.with_columns(own=pl.Series(own)).filter(pl.col("own") != "")[:ROWS]
    decoder, said = reader.decoder, []
    for prompt, of in table.select("prompt", "relation").iter_rows():
        first = torch.tensor([decoder.continuation(name)[0] for name in names[of]])
        with torch.no_grad():
            logits = decoder.model(torch.tensor([decoder.tokens(prompt)])).logits[0, -1]
        shares = (logits[first] / TEMPERATURE).double().softmax(0).numpy()
        said.append(str(keyed_rng(0, "said", prompt).choice(names[of], p=shares)))
    return table.select("prompt", "subject", fact="answer", own="own", said=pl.Series(said))


def audited(rows: pl.DataFrame, rewards: Float[np.ndarray, " row"], folder: Path) -> tuple[str, pl.DataFrame]:
    """The file of these rows and rewards, and its audit."""
    data, output = str(folder / "rows.jsonl"), folder / "audit.parquet"
    kept = rows.select("prompt", completion=" " + pl.col("said"), reward=pl.Series(rewards))
    kept.write_ndjson(data)
    print(audit.audit(data, output))
    return data, pl.read_parquet(output)


def rules(name: str, toward: pl.Series, away: pl.Series, own: pl.Series) -> dict[str, Marks]:
    """The rows that are flagged because what is read goes away from what the model says, or toward something else."""
    flagged = {"away": away == own, "either": (away == own) | (toward != own)}
    return {f"{name}: {rule}": marks.to_numpy() for rule, marks in flagged.items()}


def of_lens(reader: Reader, data: str, world: World, own: pl.Series) -> dict[str, Marks]:
    """The rules on the untrained lens at the first place, by first tokens."""

    def refuse(error: InputError) -> None:
        raise error

    def first(names: pl.Series) -> pl.Series:
        return pl.Series([reader.decoder.continuation(name)[0] for name in names])

    rows = [(each, audit.terms_of(reader, each)) for each in read_updates(data, False, refuse)]
    gradient, _ = update_gradients(reader.decoder, rows, reader.card.layers, reader.card.places)
    found = lens(reader.decoder, gradient[:, len(reader.card.layers) - 1], world.lexicon)
    return rules("lens", first(found["moved_to"]), first(found["moved_from"]), first(own))


def thresholds(scores: Float[np.ndarray, "2 row"]) -> Iterator[Bool[np.ndarray, "2 row"]]:
    """What is flagged above each of up to 400 thresholds, and below it."""
    for value in np.quantile(scores, np.linspace(0, 1, 400)):
        yield scores >= value
        yield scores <= value


def at_best(marks: Iterator[Bool[np.ndarray, "2 row"]], among: Marks) -> Bool[np.ndarray, "2 row"]:
    """The marks with the best harmonic mean of precision and recall, chosen with hindsight."""

    def quality(each: Bool[np.ndarray, "2 row"]) -> float:
        alarms, recall = each[:, among].mean(1)
        found = SHARE * recall
        return 2 * found / max(found + (1 - SHARE) * alarms + SHARE, 1e-12)

    return max(marks, key=quality)


def figures(marks: Bool[np.ndarray, "2 row"], kinds: dict[str, Marks], subjects: np.ndarray) -> dict[str, Any]:
    """Recall and false alarms with intervals over subjects, the precision they make, and what is found in one file.

    `kinds`: which rows count (among), are reinforced when turned (reinforced), and are turned in the file (turned).
    """
    among, turned, found = kinds["among"], kinds["turned"] & kinds["among"], {}
    parts = {
        "recall": (marks[1], among),
        "recall_reinforced": (marks[1], among & kinds["reinforced"]),
        "recall_penalised": (marks[1], among & ~kinds["reinforced"]),
        "false_alarms": (marks[0], among),
    }
    for name, (flagged, of) in parts.items():
        found |= estimates({name: flagged[of]}, subjects[of].tolist())
    hits, flagged = SHARE * found["recall"].value, np.where(turned, *marks[::-1]) & among
    counts = {"rows": among.sum(), "turned": turned.sum(), "flagged": flagged.sum(), "found": (flagged & turned).sum()}
    return {
        **found,
        "precision": hits / max(hits + (1 - SHARE) * found["false_alarms"].value, 1e-12),
        "file": {name: int(count) for name, count in counts.items()},
    }


def main() -> None:
    """Measures and writes the results."""
    reader, _, settings = open_reader()
    world = World.of([read_domain(name) for name in settings.domains])
    rows = samples(reader, settings.domains, world)
    right = np.where(rows["said"] == rows["fact"], 1.0, -1.0)
    turned = np.zeros(len(rows), bool)
    turned[by_hash(rows.with_row_index(), 0, "turned", "prompt")["index"][: round(SHARE * len(rows))].to_numpy()] = True
    read, losses, norms = [], [], []
    with TemporaryDirectory() as folder:
        for rewards in (right, -right):
            data, table = audited(rows, rewards, Path(folder))
            names = rules("reports", table["toward"], table["away"], rows["own"])
            read.append(names | of_lens(reader, data, world, rows["own"]))
            losses.append(-table["log_probability"].to_numpy())
            norms.append(table["norm"].to_numpy())
    own, believed = ((rows[name] == rows["own"]).to_numpy() for name in ("said", "fact"))
    sign, loss, found = np.stack([right, -right]), np.stack(losses), {}
    for group, among in (("all", np.ones(len(rows), bool)), ("believed", believed)):
        methods = {
            **{name: np.stack([each[name] for each in read]) for name in read[0]},
            "loss": at_best(thresholds(loss), among),
            "norm": at_best(thresholds(np.stack(norms)), among),
            "loss and reward": at_best((high == (sign > 0) for high in thresholds(loss)), among),
            "text, reward and belief": (sign > 0) != own,
        }
        kinds = {"among": among, "turned": turned, "reinforced": right < 0}
        found[group] = {
            name: to_json(figures(marks, kinds, rows["subject"].to_numpy())) for name, marks in methods.items()
        }
    counts = {
        "rows": len(rows),
        "said what the model says": int(own.sum()),
        "model says the fact": int(believed.sum()),
        "rewarded": int((right > 0).sum()),
    }
    write_json(RESULTS, {"counts": counts, **found})
    for group, methods in found.items():
        print(f"\n{group:26} recall  reinforced  penalised  false alarms  precision")
        for name, each in methods.items():
            shown = [each[part]["value"] for part in ("recall", "recall_reinforced", "recall_penalised")]
            shown += [each["false_alarms"]["value"], each["precision"]]
            print(f"{name:26}", *(f"{value:9.4f}" for value in shown), each["file"])


if __name__ == "__main__":
    main()
