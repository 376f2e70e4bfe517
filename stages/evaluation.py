"""Asks the model what it reads in each gradient, in front of foreign hosts and under every control, and scores it.

Reads data/model/, data/projector/ and, of all domains, data/prompts, data/gradients, data/virtual_step and data/labels.
Writes data/evaluation/: metrics.json, reports.parquet (every report), grid.csv and conditions.csv (plots). Params:
evaluation, domains. A GPU is used if there is one; the pocket model takes half a minute on two cores.

  python -m stages.evaluation
"""

from pathlib import Path
from typing import Any

import polars as pl
import torch

from stages.controls.conditions import CONDITIONS, SWAPPED, Pool
from stages.core.cases import NO_HOST, picked, with_hosts, with_premise
from stages.core.files import Scratch, content_hash, replacing, write_json
from stages.core.gathering import Gathered, gather
from stages.core.labels.agreement import known
from stages.core.neural.baselines import lens, probe
from stages.core.neural.opening import open_model
from stages.core.neural.reader import Reader, read_projector_card
from stages.core.params import Domains, Evaluation, Section, read_sections
from stages.core.scoring import REPORTS, SCORES, scored, summary
from stages.core.stage import parse, progress, run
from stages.core.tables import LABELS, VIRTUAL_STEP, read_table, write_table

PROJECTOR = Path("data/projector")
SEEN = pl.col("held_out") == "none"


class Sections(Section):
    """What this stage reads of params.yaml."""

    domains: Domains
    evaluation: Evaluation


def questions(data: Gathered, rows: pl.DataFrame, domains: list[str], settings: Evaluation) -> dict[str, pl.DataFrame]:
    """The cases of each condition; "real" also holds the grid of hosts and the held-out groups."""
    test = rows.filter(pl.col("split") == "test")
    pool = data.rows.filter((pl.col("split") == "test") & SEEN)
    seen = picked(test.filter(SEEN & (pl.col("kind") == "counterfactual")), settings.gradients, settings.seed, "grid")
    groups = [with_hosts(seen, pool, [*domains, NO_HOST], settings.seed)]
    for reason in ("target", "subject", "template"):
        held = test.filter((pl.col("held_out") == reason) & (pl.col("kind") == "counterfactual"))
        groups.append(with_hosts(picked(held, settings.gradients, settings.seed, reason), pool, None, settings.seed))
    corrections = with_hosts(test.filter(pl.col("kind") == "correction"), pool, None, settings.seed)
    corrections = corrections.with_columns(held_out=pl.lit("correction")) if len(corrections) else corrections
    cases = {"real": pl.concat([group for group in [*groups, corrections] if len(group)])}
    foreign = with_hosts(seen, pool, None, settings.seed)
    for condition in CONDITIONS:
        if condition != "real":
            cases[condition] = foreign
    return cases


def answers(
    condition: str, cases: pl.DataFrame, data: Gathered, reader: Reader, settings: Evaluation, folder: Path
) -> pl.DataFrame:
    """The reports of one condition, scored; kept in `folder` as soon as they are written."""
    make = CONDITIONS[condition]
    gradients = None
    if make is not None:
        own = data.gradient[cases["row"].to_numpy()]
        shown = Pool(cases.rename({"gradient_domain": "domain"}), own, settings.seed)
        gradients = torch.tensor(make(shown))
    if condition in SWAPPED:
        cases = cases.rename({"target": "answer", "answer": "target"})
    cases = cases.with_columns(condition=pl.lit(condition), seed=pl.lit(reader.card.seed))
    path = folder / f"{condition}.parquet"
    if not path.exists():
        reports = reader.report(cases["host"].to_list(), gradients, settings.report_tokens)
        write_table(path, scored(cases, reports), REPORTS)
    return read_table(path, REPORTS)


def of_reports(reports: pl.DataFrame, settings: Evaluation) -> dict[str, Any]:
    """The metrics of the reports, by group."""
    real = reports.filter(pl.col("condition") == "real")
    foreign = (pl.col("host_domain") != pl.col("gradient_domain")) & (pl.col("host_domain") != NO_HOST)
    groups = {
        "decoupling": real.filter(SEEN & foreign),
        "same_domain": real.filter(SEEN & (pl.col("host_domain") == pl.col("gradient_domain"))),
        "no_host": real.filter(SEEN & (pl.col("host_domain") == NO_HOST)),
        "held_out_target": real.filter(pl.col("held_out") == "target"),
        "held_out_subject": real.filter(pl.col("held_out") == "subject"),
        "held_out_template": real.filter(pl.col("held_out") == "template"),
        "corrections": real.filter(pl.col("held_out") == "correction"),
    }
    found = {
        name: summary(rows, settings.bootstrap, settings.seed)
        for name, rows in groups.items()
        if rows["target"].n_unique() > 1
    }
    found["controls"] = {
        condition: summary(
            reports.filter(pl.col("condition") == condition), settings.bootstrap, settings.seed, with_chance=True
        )
        for condition in CONDITIONS
        if condition != "real"
    }
    return found


def of_baselines(data: Gathered, rows: pl.DataFrame, reader: Reader, settings: Evaluation) -> dict[str, Any]:
    """The ceiling (linear probe, taught the known corrections) and the floor (lens), on the same test gradients."""
    train = rows.filter((pl.col("split") == "train") & SEEN)
    test = picked(
        rows.filter((pl.col("split") == "test") & SEEN & (pl.col("kind") == "counterfactual")),
        settings.gradients,
        settings.seed,
        "grid",
    )
    at_train, at_test = data.gradient[train["row"].to_numpy()], data.gradient[test["row"].to_numpy()]
    probed = pl.DataFrame(
        {
            said: probe(at_train, train[known].to_list(), at_test, settings.seed)
            for said, known in (("domain", "domain"), ("moved_to", "target"), ("moved_from", "answer"))
        }
    )
    lexicon = dict(data.rows.select("target", "domain").iter_rows())
    cases = test.select("prompt_id", "held_out", "prompt", "target", "answer", gradient_domain="domain")
    cases = cases.with_columns(
        host_prompt_id=None, host_domain=pl.lit(NO_HOST), host=None, condition=pl.lit("baseline"), seed=0
    )
    found = {}
    for name, said in (("ceiling", probed), ("floor", lens(reader.decoder, at_test, lexicon))):
        marked = scored(cases, [""] * len(cases)).with_columns(said).with_columns(
            domain_right=pl.col("domain") == pl.col("gradient_domain"),
            target_right=pl.col("moved_to") == pl.col("target"),
            answer_right=pl.col("moved_from") == pl.col("answer"),
            malformed=pl.lit(False),
            pressure=pl.lit(True),
        )  # fmt: skip
        found[name] = summary(marked, settings.bootstrap, settings.seed)
    return found


def plots(reports: pl.DataFrame, metrics: dict[str, Any], folder: Path) -> None:
    """Writes grid.csv and conditions.csv."""
    means = [pl.col(column).mean().alias(name) for name, column in SCORES.items()]
    grid = reports.filter(SEEN & (pl.col("condition") == "real")).group_by(
        "gradient_domain", "host_domain", maintain_order=True
    )
    grid.agg(pl.len().alias("reports"), *means).write_csv(folder / "grid.csv")
    bars = {"real": metrics["decoupling"], **metrics["controls"]}
    pl.DataFrame(
        [
            {
                "condition": condition,
                "metric": name,
                "value": scores[name],
                "low": scores[f"{name}_low"],
                "high": scores[f"{name}_high"],
                "chance": scores.get(f"{name}_chance"),
            }
            for condition, scores in bars.items()
            for name in SCORES
        ],
        infer_schema_length=None,
    ).write_csv(folder / "conditions.csv")


def main() -> None:
    """Evaluates the projector."""
    parse(__doc__, "evaluation", by_domain=False)
    params = read_sections(Sections)
    settings = params.evaluation
    decoder, model = open_model()
    card = read_projector_card(PROJECTOR)
    reader = Reader.load(decoder, PROJECTOR, model.id, model.commit)
    data = gather(params.domains, card.layers)
    shifts = [read_table(Path("data/virtual_step") / f"{name}.parquet", VIRTUAL_STEP) for name in params.domains]
    said = pl.concat(shifts).select("prompt_id", "continuation_before").unique("prompt_id", maintain_order=True)
    rows = with_premise(data.rows, said)
    cases = questions(data, rows, params.domains, settings)
    scratch = Scratch(
        "evaluation", params.model_dump_json(), model.model_dump_json(), content_hash(PROJECTOR), said.hash_rows().sum()
    )
    parts = []
    with progress("evaluation", sum(map(len, cases.values()))) as advance:
        for condition, asked in cases.items():
            parts.append(answers(condition, asked, data, reader, settings, scratch.folder))
            advance(len(asked))
    reports = pl.concat(parts)
    labels = pl.concat([read_table(Path("data/labels") / f"{name}.parquet", LABELS) for name in params.domains])
    facts = data.rows.filter(pl.col("kind") == "counterfactual").unique("prompt", maintain_order=True)["prompt_id"]
    metrics = {
        **of_reports(reports, settings),
        **of_baselines(data, rows, reader, settings),
        "teacher": known(labels, rows.filter(pl.col("kind") == "counterfactual")),
        "model": {"fact_accuracy": float(facts.is_in(rows["prompt_id"].implode()).mean() or 0)},
    }
    folder = Path("data/evaluation")
    with replacing(folder) as partial:
        partial.mkdir()
        write_table(partial / "reports.parquet", reports, REPORTS)
        write_json(partial / "metrics.json", metrics)
        plots(reports, metrics, partial)
    scratch.clear()
    real = metrics["decoupling"]
    print(
        f"{folder}: {len(reports)} reports; in front of foreign hosts domain {real['domain_accuracy']:.3f}, target "
        f"{real['target_accuracy']:.3f}, answer {real['answer_accuracy']:.3f}, host intrusion {real['host_intrusion']:.3f}"
    )


if __name__ == "__main__":
    run(main)
