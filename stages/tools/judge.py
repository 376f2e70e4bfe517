"""An LLM judge of free-text reports: `python -m stages.tools.judge <reports.parquet>` (`--dry-run`: the bill).

Two questions a report, each by itself: which parts of the known correction does it name, and does it speak of the host
prompt's content. Neither question holds the condition or the other's content, so equal reports under different
conditions are one request. Reads the reports (columns REPORTS) and data/prompts of all domains; writes
data/judge/judged.parquet and data/judge/metrics.json. Params: judge, api, domains; off while judge.share is 0. No GPU.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import polars as pl

from stages.core.files import write_json
from stages.core.labels.agreement import kappa
from stages.core.labels.cache import CACHE
from stages.core.labels.chat import Request, compose
from stages.core.labels.converse import converse
from stages.core.labels.fetch import Run
from stages.core.labels.lexicon import words
from stages.core.labels.parse import Said, read
from stages.core.labels.spend import estimate
from stages.core.params import Api, Domains, Judge, Section, read_sections
from stages.core.seeds import keyed_fraction
from stages.core.stage import run
from stages.core.tables import PROMPTS, read_table, write_table
from stages.core.wording import parse_report

PROMPT = Path(__file__).parents[1] / "labellers" / "judge.md"
OUTPUT = Path("data/judge")
REPORTS = {
    "prompt_id": pl.String,  # of the gradient
    "host_prompt_id": pl.String,  # null without a host
    "condition": pl.String,
    "report": pl.String,
}
PARTS = ("domain", "moved_to", "moved_from")
JUDGED = (
    REPORTS
    | {f"judge_{part}": pl.String for part in PARTS}  # right | wrong | absent; null when unjudged
    | {"judge_host": pl.String}  # yes | no; null without a host or when unjudged
    | {f"score_{part}": pl.Boolean for part in PARTS}  # the deterministic score; null where nothing is known
    | {"score_host": pl.Boolean}
)
Part = Literal["right", "wrong", "absent"]


class Sections(Section):
    """What the judge reads of params.yaml."""

    domains: Domains
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


@dataclass(frozen=True)
class Judged:
    """The judged table (columns JUDGED), metrics that answers alone decide, and what this run did."""

    table: pl.DataFrame
    metrics: dict[str, Any]
    run: dict[str, Any]


def questions(reports: pl.DataFrame, prompts: pl.DataFrame, params: Judge) -> dict[str, Request]:
    """The requests, by "correction" or "host" and the row's number among the chosen `reports`.

    Raises:
        ValueError: a report's prompt_id or host_prompt_id is not in the prompts tables.
    """
    known = {row["prompt_id"]: row for row in prompts.iter_rows(named=True)}
    system = PROMPT.read_text(encoding="utf-8").strip().split("\n---\n")
    assert len(system) == 2, f"{PROMPT}: wanted two prompts with a line --- between them"
    asked: dict[str, Request] = {}
    for number, row in enumerate(reports.iter_rows(named=True)):
        for column in ("prompt_id", "host_prompt_id"):
            if row[column] is not None and row[column] not in known:
                raise ValueError(
                    f"reports, row {number}: {column}: no {row[column]!r} in data/prompts; rerun evaluation"
                )
        fact = known[row["prompt_id"]]
        leaves = fact["answer"] or "(not known)"
        correction = f"Domain: {fact['domain']}\nToward: {fact['target']}\nAway from: {leaves}\n"
        asked[f"correction {number}"] = _compose(params, system[0], f"{correction}Report: {row['report']}", Verdict)
        if row["host_prompt_id"] is not None:
            host = f"Prompt: {known[row['host_prompt_id']]['prompt']}\nReport: {row['report']}"
            asked[f"host {number}"] = _compose(params, system[1], host, HostVerdict)
    return asked


def chosen(reports: pl.DataFrame, params: Judge) -> pl.DataFrame:
    """The share of the reports that is judged, drawn by what identifies a report."""
    keys = zip(reports["prompt_id"], reports["host_prompt_id"], reports["condition"], strict=True)
    return reports.filter([keyed_fraction(params.seed, a, b or "", c) < params.share for a, b, c in keys])


def judge(reports: pl.DataFrame, prompts: pl.DataFrame, params: Judge, api: Api) -> Judged:
    """Judges the chosen share of the reports, and says how far the judge agrees with the deterministic score.

    Raises:
        ValueError: too many answers can't be used, or asking had to stop.
    """
    reports, did = chosen(reports.select(*REPORTS), params), Run()
    asked = questions(reports, prompts, params)
    kinds = {"correction": Verdict, "host": HostVerdict}
    found = converse(
        asked,
        lambda name, answer: read(answer, kinds[name.split()[0]]),
        api,
        batch=params.way == "batch",
        what="judge",
        run=did,
    )
    found.refuse_above(params.max_quarantined, "judge.max_quarantined", "judge")
    verdicts = {name: value.model_dump() for name, value in found.values.items()}
    rows = []
    for number, (row, score) in enumerate(zip(reports.to_dicts(), scores(reports, prompts), strict=True)):
        said = verdicts.get(f"correction {number}", {}) | verdicts.get(f"host {number}", {})
        rows.append(row | {f"judge_{part}": said.get(part) for part in (*PARTS, "host")} | score)
    table = pl.DataFrame(rows, schema=JUDGED)  # type: ignore[arg-type]
    metrics = found.metrics() | {"reports": len(table), "agreement": agreement(table)}
    return Judged(table, metrics, did.as_dict())


def scores(reports: pl.DataFrame, prompts: pl.DataFrame) -> list[dict[str, bool | None]]:
    """The deterministic score of each report: parsed, each part against the known correction; null where none is known.

    `score_host`: it names the host's domain, and the gradient's is another one.
    """
    known = {row["prompt_id"]: row for row in prompts.iter_rows(named=True)}
    found = []
    for row in reports.iter_rows(named=True):
        parsed, fact, host = parse_report(row["report"]), known[row["prompt_id"]], known.get(row["host_prompt_id"])
        named = words(parsed.domain)
        found.append(
            {
                "score_domain": named == words(fact["domain"]),
                "score_moved_to": words(parsed.moved_to) == words(fact["target"]),
                "score_moved_from": None
                if fact["answer"] is None
                else words(parsed.moved_from) == words(fact["answer"]),
                "score_host": None if host is None else named == words(host["domain"]) != words(fact["domain"]),
            }
        )
    return found


def agreement(judged: pl.DataFrame) -> dict[str, dict[str, int | float]]:
    """By part: on how many reports both speak, the share on which judge and score agree, and Cohen's kappa."""
    found = {}
    for part, yes in [*((part, "right") for part in PARTS), ("host", "yes")]:
        rows = judged.filter(pl.col(f"judge_{part}").is_not_null() & pl.col(f"score_{part}").is_not_null())
        said, score = (rows[f"judge_{part}"] == yes).to_list(), rows[f"score_{part}"].to_list()
        same = sum(a == b for a, b in zip(said, score, strict=True))
        share = same / len(rows) if len(rows) else 0.0
        found[part] = {"rows": len(rows), "share": share, "kappa": kappa(said, score)}
    return found


def _compose(params: Judge, system: str, user: str, kind: type[Said]) -> Request:
    messages = [{"role": "system", "content": system}, {"role": "user", "content": user}]
    return compose(params.teacher, messages, kind.model_json_schema())


def main(arguments: list[str] | None = None) -> None:
    """Judges a table of reports and prints one line of result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reports", type=Path, help="Parquet table with at least the columns REPORTS")
    parser.add_argument("--dry-run", action="store_true", help="print calls, tokens and cost; ask and write nothing")
    options = parser.parse_args(arguments)
    sections = read_sections(Sections)
    if sections.judge.share == 0:
        print("judge: off (params.yaml: judge.share is 0)")
        return
    reports = read_table(options.reports, REPORTS)
    prompts = pl.concat(read_table(Path(f"data/prompts/{name}.parquet"), PROMPTS) for name in sections.domains)
    if options.dry_run:
        asked = questions(chosen(reports.select(*REPORTS), sections.judge), prompts, sections.judge)
        print(f"judge: {estimate(asked.values(), sections.api, batch=sections.judge.way == 'batch')}")
        return
    judged = judge(reports, prompts, sections.judge, sections.api)
    write_json(OUTPUT / "metrics.json", judged.metrics)
    write_json(CACHE / "usage" / "judge.json", judged.run)
    write_table(OUTPUT / "judged.parquet", judged.table, JUDGED)
    shares = ", ".join(f"{part} {found['share']:.3f}" for part, found in judged.metrics["agreement"].items())
    cost = f"{judged.metrics['quarantined']} answers in quarantine, {judged.metrics['cost_usd']:.4f} USD"
    print(f"judge: {len(judged.table)} reports, {cost}; agreement with the deterministic score: {shares}")


if __name__ == "__main__":
    run(main)
