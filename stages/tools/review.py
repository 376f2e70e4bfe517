"""Prints what a pull request does, as Markdown; needs no data and pulls none.

Compares the working tree with a base revision (default: origin/main): params, recorded metrics with their intervals,
what `dvc repro` would run and why and what it cost last time, and whether dvc.lock, dvc.yaml and the recorded results
are of one run. Reads git, dvc.yaml, dvc.lock, params.yaml and docs/results (see record.py). No GPU, seconds.

  python -m stages.tools.review
  python -m stages.tools.review HEAD~3
"""

from math import hypot
from pathlib import Path
from typing import Any

from ..core.evaluate.estimate import Estimate, flat, from_json
from ..core.run.stage import errors_in_one_line, parser
from .dependencies import differences
from .reruns import Plan, plan
from .revision import Revision, differing, read_revision
from .template import filled_in

HEADLINES = ("decoupling.", "held_out_target.", "teacher.", "model.")


def params(base: Revision, head: Revision) -> list[list[str]]:
    """The params that differ: key, value in the base and here."""
    keys, old, new = differing(base.params, head.params)
    return [[f"`{key}`", *(f"`{side[key]}`" if key in side else "-" for side in (old, new))] for key in keys]


def noise(old: Estimate, new: Estimate) -> str:
    """Whether a change is larger than the two 95 % intervals together explain, taken as independent."""
    widths = [(one.high - one.low) / 2 for one in (old, new) if one.low is not None and one.high is not None]
    if len(widths) < 2:
        return "no interval"
    within = abs(new.value - old.value) <= hypot(*widths)
    return "within noise" if within else "**beyond noise**"


def metrics(base: Revision, head: Revision) -> dict[str, Any]:
    """The recorded metrics that differ, headlines and others; or why they can't be compared."""
    try:
        old, new = (flat(from_json(side.copy("metrics.json"))) for side in (base, head))
    except ValueError as error:
        why = f"Not compared: docs/results/metrics.json of one side is of another format ({error})."
        return {"incomparable": why}
    if not old or not new:
        side = "base" if not old else "working tree"
        why = f"The {side} has no recorded metrics (docs/results/metrics.json): run `dvc repro` and "
        return {"incomparable": f"{why}`python -m stages.tools.record`."}
    found: dict[str, list[list[str]]] = {"headlines": [], "others": []}
    for name in dict.fromkeys([*old, *new]):
        there, here = old.get(name), new.get(name)
        if there is None or here is None:
            change, noisy = "-", "gone" if here is None else "new"
        elif here.value == there.value:
            continue
        else:
            change, noisy = f"{here.value - there.value:+.4g}", noise(there, here)
        kind = "headlines" if name.startswith(HEADLINES) else "others"
        found[kind].append([f"`{name}`", number(there), number(here), change, noisy])
    return found


def number(one: Estimate | None) -> str:
    """A metric with its interval."""
    if one is None:
        return "-"
    low, high = one.low, one.high
    return f"{one.value:.4g}" + (f" ({low:.3g} to {high:.3g})" if low is not None and high is not None else "")


def reruns(found: Plan, head: Revision) -> dict[str, Any]:
    """What would run, why, and what it cost when it last ran: seconds, teacher calls and US dollars."""
    rows, total, calls, dollars, unknown = [], 0.0, 0, 0.0, 0
    for name in found.stages:
        seconds = head.costs.get(name, {}).get("seconds")
        stage, _, domain = name.partition("@")
        asked = head.copy(f"labels/{domain}.json") if stage == "labels" else {}
        if name in found.direct:
            why = "; ".join(found.direct[name])
        else:
            why = f"if what {', '.join(found.after[name])} writes comes out differently"
        price = f"{asked['calls']} calls, {asked['cost_usd']:.2f} USD" if asked.get("calls") else "-"
        rows.append([f"`{name}`", why, "not recorded" if seconds is None else minutes(seconds), price])
        total, unknown = total + (seconds or 0), unknown + (seconds is None)
        calls, dollars = calls + asked.get("calls", 0), dollars + asked.get("cost_usd", 0)
    return {"runs": rows, "time": minutes(total), "calls": calls, "dollars": dollars, "unknown": unknown}


def minutes(seconds: float) -> str:
    """A duration in words."""
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.1f} min"


def report(base: str) -> str:
    """The whole report, in the words of review.md.j2.

    Raises:
        InputError: the base revision isn't here, or a file can't be read.
    """
    old, new = read_revision(base), read_revision(None)
    found = plan(new.lock, new.params)
    return filled_in(
        "review.md.j2",
        base=base,
        plan=found,
        edited=len({name.partition("@")[0] for name in found.direct}),
        undeclared=differences(Path.cwd(), write=False),
        stale=new.stale_copies(),
        params=params(old, new),
        ran=[name for name in new.lock if new.lock[name] != old.lock.get(name)],
        **{"incomparable": "", **metrics(old, new), **reruns(found, new)},
    )


def main() -> None:
    """Prints the report."""
    line = parser(__doc__, "tools.review")
    line.add_argument("base", nargs="?", default="origin/main", help="compared with; default: %(default)s")
    with errors_in_one_line():
        print(report(line.parse_args().base), end="")


if __name__ == "__main__":
    main()
