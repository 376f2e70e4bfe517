"""Prints what a pull request does, as Markdown; needs no data and pulls none.

Compares the working tree with a base revision (default: origin/main): params, recorded metrics with their intervals,
what `dvc repro` would run and why and what it cost last time, and whether dvc.lock, dvc.yaml and the recorded results
are of one run. Reads git, dvc.yaml, dvc.lock, params.yaml and docs/results (see record.py). No GPU, seconds.

  python -m stages.tools.review
  python -m stages.tools.review HEAD~3
"""

from collections.abc import Iterable
from dataclasses import dataclass
from math import hypot
from pathlib import Path
from typing import Any

from dvc.exceptions import DvcException
from dvc.repo import Repo
from dvc.repo.graph import get_subgraph_of_nodes

from ..core.evaluate.estimate import Estimate, flat, from_json
from ..core.run.errors import InputError
from ..core.run.stage import errors_in_one_line, parser
from .dependencies import differences
from .revision import Revision, differing, read_revision
from .template import filled_in

HEADLINES = ("decoupling.", "held_out_target.", "teacher.", "model.")
PIPELINE = "dvc.yaml"
"""What `dvc repro` runs; stages/sweeps/dvc.yaml has commands of its own."""
ABSENT = ("deleted", "not in cache")
"""What DVC says of data that isn't here; that's nothing that an edit has changed."""


@dataclass(frozen=True)
class Plan:
    """What would run, and why. `direct`: whose inputs differ from dvc.lock. `after`: what reads their outputs."""

    direct: dict[str, str]
    after: dict[str, str]
    gone: list[str]


def params(base: Revision, head: Revision) -> list[list[str]]:
    """The params that differ: key, value in the base and here."""
    return [
        [f"`{key}`", *("-" if value is ... else f"`{value}`" for value in sides)]
        for key, sides in differing(base.params, head.params).items()
    ]


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
    costs = head.copy("costs.json")
    for name, why in (found.direct | found.after).items():
        seconds = costs.get(name, {}).get("seconds")
        stage, _, domain = name.partition("@")
        asked = head.copy(f"labels/{domain}.json") if stage == "labels" else {}
        price = f"{asked['calls']} calls, {asked['cost_usd']:.2f} USD" if asked.get("calls") else "-"
        rows.append([f"`{name}`", why, "not recorded" if seconds is None else minutes(seconds), price])
        total, unknown = total + (seconds or 0), unknown + (seconds is None)
        calls, dollars = calls + asked.get("calls", 0), dollars + asked.get("cost_usd", 0)
    return {"runs": rows, "time": minutes(total), "calls": calls, "dollars": dollars, "unknown": unknown}


def plan(lock: dict[str, Any], params: dict[str, Any]) -> Plan:
    """What `dvc repro` would run in the working tree, whose dvc.lock and params.yaml these are, told without the data.

    Raises:
        InputError: dvc.yaml or dvc.lock can't be read.
    """
    try:
        with Repo(str(Path.cwd())) as repo:
            order = {stage.addressing: stage for stage in repo.index.stages if stage.path_in_repo == PIPELINE}
            graph = repo.index.graph  # from each stage to those whose outputs it reads
            status = repo.status(targets=[PIPELINE])
    except DvcException as error:
        raise InputError(f"{error}; see docs/sharing.md") from error
    whys = {name: causes(said, lock.get(name, {}), params) for name, said in status.items()}
    for name, why in mismatches({name: lock[name] for name in order if name in lock}).items():
        whys[name] = whys.get(name, []) + why
    whys |= {name: ["is new"] for name in order if name not in lock}
    direct = {name: "; ".join(why) for name, why in whys.items() if why}
    edited = [order[name] for name in direct]
    reached = set(get_subgraph_of_nodes(graph, edited, downstream=True) if edited else ())
    after = {}
    for name, stage in order.items():
        if stage in reached and name not in direct:
            sources = sorted(read.addressing for read in graph.successors(stage) if read in reached)
            after[name] = f"if what {', '.join(sources)} writes comes out differently"
    return Plan(direct, after, [name for name in lock if name not in order])


def causes(said: Iterable[Any], locked: dict[str, Any], params: dict[str, Any]) -> list[str]:
    """What DVC says of a stage, as phrases; without the data that isn't here. Of a section, the keys that differ."""
    then = locked.get("params", {}).get("params.yaml", {})
    found = []
    for item in said:
        if isinstance(item, str):
            found.append({"changed command": "its command changed"}.get(item, item))
            continue
        for kind, things in item.items():
            for path, how in things.items():
                if isinstance(how, dict):
                    for section in how:
                        sides = ({name: side[name] for name in side if name == section} for side in (then, params))
                        found += [f"param `{key}`" for key in differing(*sides) or [section]]
                elif how not in ABSENT:
                    found.append(f"`{path}` {how}" + ("" if kind == "changed deps" else " (an output)"))
    return found


def mismatches(lock: dict[str, Any]) -> dict[str, list[str]]:
    """Stages that dvc.lock has read another version of a file than the one that its stage wrote."""
    made = {out["path"]: (out["md5"], name) for name, entry in lock.items() for out in entry.get("outs", [])}
    found: dict[str, list[str]] = {}
    for name, entry in lock.items():
        for dep in entry.get("deps", []):
            content, maker = made.get(dep["path"], (dep.get("md5"), ""))
            if content != dep.get("md5"):
                found.setdefault(name, []).append(f"dvc.lock has it read another `{dep['path']}` than {maker} wrote")
    return found


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
