"""An LLM judge of free-text reports (`--dry-run`: the bill).

Two questions a report, each by itself: which parts of the known correction does it name, and does it speak of the host
prompt's content. Neither question holds the condition or the other's content, so equal reports under different
conditions are one request. Known is what the evaluation scored the report against: target and answer swapped where the
gradient's sign was flipped. Reads data/evaluation/reports.parquet, or another table with its columns; writes
data/judge/judged.parquet and data/judge/metrics.json, which says how far the judge agrees with the evaluation's own
score. Params: judge, api; off while judge.share is 0. No GPU.

  python -m stages.tools.judge --dry-run
  python -m stages.tools.judge
"""

from pathlib import Path
from typing import Annotated, Any, Literal

import polars as pl
from pydantic import Field

from ..core.api.cache import CACHE
from ..core.api.chat import Request, Said, compose, read
from ..core.api.converse import converse
from ..core.api.section import Api, Asking
from ..core.api.spend import Usage, estimate
from ..core.data.tables import read_table, write_table
from ..core.evaluate.table import REPORTS
from ..core.labels.agreement import kappa
from ..core.run.files import write_json
from ..core.run.params import Section, read_sections
from ..core.run.seeds import keyed_fraction
from ..core.run.stage import parser, run

PROMPT = Path(__file__).parents[1] / "labellers" / "judge.md"
TABLE = Path("data/evaluation/reports.parquet")
OUTPUT = Path("data/judge")
SCORES = {"domain": "domain_right", "moved_to": "target_right", "moved_from": "answer_right"}
"""Part of a correction, and the evaluation's score of it."""
IDENTITY = ("prompt_id", "host_prompt_id", "condition", "held_out", "seed")
JUDGED = (
    {name: REPORTS[name] for name in (*IDENTITY, "report")}
    | {f"judge_{part}": pl.String for part in SCORES}  # right | wrong | absent; null when unjudged
    | {"judge_host": pl.String}  # yes | no; null without a host or when unjudged
    | {f"score_{part}": pl.Boolean for part in SCORES}  # the deterministic score
    | {"score_host": pl.Boolean}  # names the host's domain; null without a host, or one of the gradient's own domain
)
Part = Literal["right", "wrong", "absent"]


class Judge(Asking):
    """The LLM judge of free-text reports. `share` of the reports that it reads, drawn by `seed`; 0 is off."""

    share: Annotated[float, Field(ge=0, le=1)]
    seed: int


class Sections(Section):
    """What the judge reads of params.yaml."""

    judge: Judge
    api: Api


class Verdict(Said):
    """Which parts of the correction a report names."""

    domain: Part
    moved_to: Part
    moved_from: Part


class HostVerdict(Said):
    """Whether a report speaks of the host prompt's content."""

    host: Literal["yes", "no"]


def questions(reports: pl.DataFrame, params: Judge) -> dict[str, Request]:
    """The requests, by "correction" or "host" and the row's number among `reports`."""
    system = PROMPT.read_text(encoding="utf-8").strip().split("\n---\n")
    assert len(system) == 2, f"{PROMPT}: wanted two prompts with a line --- between them"
    asked: dict[str, Request] = {}
    schema, host_schema = Verdict.model_json_schema(), HostVerdict.model_json_schema()
    for number, row in enumerate(reports.iter_rows(named=True)):
        leaves = row["answer"] or "(not known)"
        correction = f"Domain: {row['gradient_domain']}\nToward: {row['target']}\nAway from: {leaves}\n"
        report = f"Report: {row['report']}"
        asked[f"correction {number}"] = compose(params.teacher, system[0], correction + report, schema)
        if row["host"] is not None:
            host = f"Prompt: {row['host']}\n"
            asked[f"host {number}"] = compose(params.teacher, system[1], host + report, host_schema)
    return asked


def chosen(reports: pl.DataFrame, params: Judge) -> pl.DataFrame:
    """The share of the reports that is judged, drawn by what identifies a report."""
    keys = reports.select(pl.col(IDENTITY).cast(pl.String).fill_null("")).iter_rows()
    return reports.filter([keyed_fraction(params.seed, *key) < params.share for key in keys])


def judge(reports: pl.DataFrame, params: Judge, api: Api) -> tuple[pl.DataFrame, dict[str, Any], Usage]:
    """Judges reports, and says how far the judge agrees with the deterministic score.

    Returns:
        The judged table (columns JUDGED), metrics that answers alone decide, and what this run did.

    Raises:
        InputError: too many answers can't be used, or asking had to stop.
    """
    did = Usage()
    kinds = {"correction": Verdict, "host": HostVerdict}
    found = converse(
        questions(reports, params), lambda name, answer: read(answer, kinds[name.split()[0]]), api, params,
        section="judge", what="judge", usage=did,
    )  # fmt: skip
    verdicts = {name: value.model_dump() for name, value in found.values.items()}
    numbers = range(len(reports))
    said = [verdicts.get(f"correction {number}", {}) | verdicts.get(f"host {number}", {}) for number in numbers]
    foreign = pl.col("host").is_not_null() & (pl.col("host_domain") != pl.col("gradient_domain"))
    table = reports.with_columns(
        *(pl.Series(f"judge_{part}", [one.get(part) for one in said], pl.String) for part in (*SCORES, "host")),
        *(pl.col(column).alias(f"score_{part}") for part, column in SCORES.items()),
        score_host=pl.when(foreign).then("host_intrusion"),
    ).select(*JUDGED)
    return table, found.metrics() | {"reports": len(table), "agreement": agreement(table)}, did


def agreement(judged: pl.DataFrame) -> dict[str, dict[str, int | float]]:
    """By part: on how many reports both speak, the shares that judge and score call right (host: named), the share on
    which they agree, and Cohen's kappa."""
    found = {}
    for part, yes in [*((part, "right") for part in SCORES), ("host", "yes")]:
        rows = judged.filter(pl.col(f"judge_{part}").is_not_null() & pl.col(f"score_{part}").is_not_null())
        said, score = rows[f"judge_{part}"] == yes, rows[f"score_{part}"]
        shares = {"judge": said.mean() or 0.0, "score": score.mean() or 0.0, "share": (said == score).mean() or 0.0}
        found[part] = {"rows": len(rows), **shares, "kappa": kappa(said.to_list(), score.to_list())}
    return found


def main(arguments: list[str] | None = None) -> None:
    """Judges a table of reports and prints one line of result."""
    line = parser(__doc__, "tools.judge")
    line.add_argument("reports", type=Path, nargs="?", default=TABLE, help=f"default: {TABLE}")
    line.add_argument("--dry-run", action="store_true", help="print calls, tokens and cost; ask and write nothing")
    options = line.parse_args(arguments)
    sections = read_sections(Sections)
    if sections.judge.share == 0:
        print("judge: off (params.yaml: judge.share is 0)")
        return
    reports = chosen(read_table(options.reports, REPORTS), sections.judge)
    if options.dry_run:
        print(f"judge: {estimate(questions(reports, sections.judge).values(), sections.api, sections.judge)}")
        return
    table, metrics, did = judge(reports, sections.judge, sections.api)
    write_json(OUTPUT / "metrics.json", metrics)
    write_json(CACHE / "usage" / "judge.json", vars(did))
    write_table(OUTPUT / "judged.parquet", table, JUDGED)
    shares = ", ".join(f"{part} {found['share']:.3f}" for part, found in metrics["agreement"].items())
    cost = f"{metrics['quarantined']} answers in quarantine, {metrics['cost_usd']:.4f} USD"
    print(f"judge: {len(table)} reports, {cost}; agreement with the deterministic score: {shares}")


if __name__ == "__main__":
    run(main)
