"""Prints what a pull request does, as Markdown; needs no data and pulls none.

Compares the working tree with a base revision (default: origin/main): params, recorded metrics with their intervals,
what `dvc repro` would run and why and what it cost last time, and whether dvc.lock, dvc.yaml and the recorded results
are of one run. Reads git, dvc.yaml, dvc.lock, params.yaml and docs/results (see record.py). No GPU, seconds.

  python -m stages.tools.review
  python -m stages.tools.review HEAD~3
"""

from collections.abc import Iterable, Sequence
from math import hypot
from pathlib import Path
from typing import Any

from ..core.evaluate.estimate import Estimate, from_json
from ..core.evaluate.estimate import flat as flat_estimates
from ..core.run.stage import errors_in_one_line, parser
from .dependencies import COMMAND, differences
from .reruns import Plan, plan
from .revision import Revision, flat, read_revision

HEADLINES = ("decoupling.", "held_out_target.", "teacher.", "model.")
RECORD = "python -m stages.tools.record"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """A Markdown table."""
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    return lines + [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows]


def params(base: Revision, head: Revision) -> list[str]:
    """The params that differ."""
    old, new = flat(base.params), flat(head.params)
    keys = [key for key in dict.fromkeys([*old, *new]) if old.get(key, ...) != new.get(key, ...)]
    if not keys:
        return ["No param differs."]

    def show(side: dict[str, Any], key: str) -> str:
        return f"`{side[key]}`" if key in side else "-"

    return table(["param", "base", "here"], [[f"`{key}`", show(old, key), show(new, key)] for key in keys])


def noise(old: Estimate, new: Estimate) -> str:
    """Whether a change is larger than the two 95 % intervals together explain, taken as independent."""
    widths = [(one.high - one.low) / 2 for one in (old, new) if one.low is not None and one.high is not None]
    if len(widths) < 2:
        return "no interval"
    within = abs(new.value - old.value) <= hypot(*widths)
    return "within noise" if within else "**beyond noise**"


def metrics(base: Revision, head: Revision) -> list[str]:
    """The recorded metrics that differ: headlines in sight, all others folded away."""
    try:
        old, new = (flat_estimates(from_json(side.copy("metrics.json"))) for side in (base, head))
    except ValueError as error:
        return [f"Not compared: docs/results/metrics.json of one side is of another format ({error})."]
    if not old or not new:
        side = "base" if not old else "working tree"
        return [f"The {side} has no recorded metrics (docs/results/metrics.json): run `dvc repro` and `{RECORD}`."]
    rows = []
    for name in dict.fromkeys([*old, *new]):
        here, there = new.get(name), old.get(name)
        if here is None or there is None:
            change, noisy = "-", "gone" if here is None else "new"
        elif here.value == there.value:
            continue
        else:
            change, noisy = f"{here.value - there.value:+.4g}", noise(there, here)
        rows.append((name, [f"`{name}`", number(there), number(here), change, noisy]))
    if not rows:
        return ["No recorded metric differs."]
    head_row = ["metric", "base", "here", "change", "95 % intervals"]
    main = [row for name, row in rows if name.startswith(HEADLINES)]
    rest = [row for name, row in rows if not name.startswith(HEADLINES)]
    lines = table(head_row, main) if main else ["No headline metric differs."]
    if rest:
        lines += [
            "",
            f"<details><summary>{len(rest)} other metrics differ</summary>",
            "",
            *table(head_row, rest),
            "",
            "</details>",
        ]
    return [*lines, "", "Within noise: the change is no larger than both intervals, taken as independent, explain."]


def number(one: Estimate | None) -> str:
    """A metric with its interval."""
    if one is None:
        return "-"
    low, high = one.low, one.high
    return f"{one.value:.4g}" + (f" ({low:.3g} to {high:.3g})" if low is not None and high is not None else "")


def cost(name: str, head: Revision) -> tuple[float | None, int | None, float | None]:
    """What a stage cost when it last ran: seconds, teacher calls, US dollars; None: not recorded, or it asks no one."""
    seconds = head.costs.get(name, {}).get("seconds")
    stage, _, domain = name.partition("@")
    asked = head.copy(f"labels/{domain}.json") if stage == "labels" else {}
    return seconds, asked.get("calls"), asked.get("cost_usd")


def reruns(found: Plan, base: Revision, head: Revision) -> list[str]:
    """What would run, why and at what cost; and what has run already."""
    lines = []
    if found.stages:
        rows, total, calls, dollars, unknown = [], 0.0, 0, 0.0, 0
        for name in found.stages:
            seconds, asked, paid = cost(name, head)
            total, calls, dollars = total + (seconds or 0), calls + (asked or 0), dollars + (paid or 0)
            unknown += seconds is None
            if name in found.direct:
                why = "; ".join(found.direct[name])
            else:
                why = f"if what {', '.join(found.after[name])} writes comes out differently"
            price = f"{asked} calls, {paid:.2f} USD" if asked else "-"
            rows.append([f"`{name}`", why, "not recorded" if seconds is None else minutes(seconds), price])
        lines += table(["stage", "why", "last time", "teacher"], rows)
        rest = f", and {unknown} stages whose time is not recorded" if unknown else ""
        lines += [
            "",
            f"**{len(rows)} stages, {minutes(total)} last time{rest}; {calls} teacher calls, {dollars:.2f} USD.**",
        ]
    else:
        lines.append("Nothing would run: dvc.lock is of these params, facts and code.")
    ran = [name for name in head.lock if head.lock[name] != base.lock.get(name)]
    if ran:
        lines += ["", f"Already run in this branch, and in dvc.lock: {', '.join(f'`{name}`' for name in ran)}."]
    return lines


def minutes(seconds: float) -> str:
    """A duration in words."""
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.1f} min"


def freshness(found: Plan, head: Revision) -> list[str]:
    """Whether lock, pipeline and recorded results are of one run."""
    wrong = differences(Path.cwd(), write=False)
    stale = head.stale_copies()
    stages = len({name.partition("@")[0] for name in found.direct})
    checks = [
        (
            not found.direct,
            "dvc.lock is fresh",
            f"dvc.lock is not fresh: {stages} stages see other inputs; run `dvc repro`",
        ),
        (
            not found.gone,
            "",
            f"dvc.lock still has {', '.join(found.gone)}; the next `dvc repro` leaves it, `dvc commit` too: harmless",
        ),
        (
            not wrong,
            "dvc.yaml declares what the stages read",
            f"dvc.yaml differs from what the stages read in {len(wrong)} places; run `{COMMAND}`",
        ),
        (
            not stale,
            "recorded results are of the run in dvc.lock",
            f"recorded results are of another run ({', '.join(stale)}); run `{RECORD}`",
        ),
    ]
    return [f"- {'ok' if good else '**look**'}: {yes if good else no}" for good, yes, no in checks if yes or not good]


def report(base: str) -> str:
    """The whole report.

    Raises:
        InputError: the base revision isn't here, or a file can't be read.
    """
    old, new = read_revision(base), read_revision(None)
    found = plan(new.lock, new.params)
    sections = {
        "Is it fresh?": freshness(found, new),
        "Params": params(old, new),
        "Metrics": metrics(old, new),
        "What would run": reruns(found, old, new),
    }
    lines = [f"## What this does to the experiment, against `{base}`"]
    for title, content in sections.items():
        lines += ["", f"### {title}", "", *content]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Prints the report."""
    line = parser(__doc__, "tools.review")
    line.add_argument("base", nargs="?", default="origin/main", help="compared with; default: %(default)s")
    with errors_in_one_line():
        print(report(line.parse_args().base), end="")


if __name__ == "__main__":
    main()
