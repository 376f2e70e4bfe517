"""Makes a table of data/sweep from its experiments' results and names it in params.yaml, so that the page shows it.

Reads params.yaml and the results that the stages of stages/sweeps/dvc.yaml wrote below data/sweep/, data/suppress/,
data/concepts/, data/soft_prompts/ and data/free_words/. Writes data/sweep/NAME.csv, one row an experiment, params.yaml
(`report.sweeps`) and dvc.yaml. No GPU, at once.

  python -m stages.tools.sweep_table ladder
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..core.data.places import FIRST, SUBJECT
from ..core.evaluate.estimate import from_json
from ..core.page.inputs import read_params
from ..core.page.sweep import FOLDER, LADDER, LEAVE_ONE_OUT, Experiment, table_of
from ..core.run.files import read_json, read_yaml, replacing
from ..core.run.stage import parser, run
from . import experiment, params_file
from .dependencies import differences

EXPERIMENTS = Path("stages/sweeps/experiments.yaml")


def called(what: str) -> dict[str, str]:
    """What the rows of a table are called."""
    return read_yaml(Path(__file__).with_name("sweep_rows.yaml"))[what]


def results(name: str) -> dict[str, Any]:
    """The estimates that the stage of this name wrote."""
    return from_json(read_json(Path("data", name, "metrics.json")))


def ladder() -> list[Experiment]:
    """The rungs: what each has of every key that one of them sets."""
    params, texts = read_params(), read_yaml(EXPERIMENTS)["experiments"]
    rungs = {name: experiment.rung(json.loads(text), params["gradients"]["layers"]) for name, text in texts.items()}
    usual = {key: params["projector"].get(key, False) for changes in rungs.values() for key in changes}
    found = []
    for name, changes in rungs.items():
        group = "Nothing trained" if changes["architecture"] == experiment.RAW else "A map that is trained"
        if changes.get("places") == [SUBJECT]:
            group += ", at the subject's last token"
        scores = from_json(read_json(experiment.FOLDER / f"{name}.json"))
        found.append(Experiment(group, name, usual | changes, scores))
    return found


def domains_left_out() -> list[Experiment]:
    """The scores of each domain by a projector that was never trained on it."""
    files = {name: experiment.LEFT_OUT / f"{name}.json" for name in read_params()["domains"]}
    scores = {name: {"decoupling": from_json(read_json(file))} for name, file in files.items()}
    return [Experiment("Never trained on", name, {"held_out_domains": [name]}, scores[name]) for name in scores]


def suppressed() -> list[Experiment]:
    """What is learned where gradients are suppressed, by lesson and way, at the steps that are some way's last."""
    metrics, names, found = results("suppress"), called("ways"), []
    for lesson, words in called("lessons").items():
        ways = [(way.rsplit(" ", 2), steps) for way, steps in metrics[lesson].items()]
        ways = [(way[0], int(way[1]), steps) for way, steps in ways if float(way[2]) == 0]  # others amplify
        ways.sort(key=lambda way: (list(names).index(way[0]), way[1]))
        for last in sorted({max(map(int, steps)) for *_, steps in ways}):
            for kind, directions, steps in ways:
                if str(last) in steps:
                    settings = {"lesson": lesson, "kind": kind, "directions": directions, "steps": last}
                    name = names[kind] + (f", {directions}" if directions else "")
                    found.append(Experiment(f"{words}: {last} steps", name, settings, {"learned": steps[str(last)]}))
    return found


def explained() -> list[Experiment]:
    """What each dictionary's features explain of gradients, and what as many random directions do."""
    cells, found = results("concepts")["explained"], []
    for cell, kinds in cells.items():
        for kind, scores in kinds.items():
            count = int(scores["count"].value)
            names = {"features": f"{kind}, {count} features".capitalize(), "random": f"{count} random directions"}
            for key, name in names.items():
                settings = {"cell": cell, "kind": kind, "features": key, "count": count}
                found.append(Experiment(place_of(cell), name, settings, {"features": scores[key]}))
    return found


def mixtures() -> list[Experiment]:
    """The shares in which each dictionary of the last layer finds two behaviours that are mixed in one data set."""
    cells, found = results("concepts")["mixed"], []
    cell = max(cells, key=lambda name: int(name.rpartition(" ")[2]))
    for pair, kinds in cells[cell].items():
        for share in next(iter(kinds.values())):
            first, second = f"{float(share):.0%}", f"{1 - float(share):.0%}"
            group = f"{place_of(cell)}: {pair.replace(' and ', f' {first}, ')} {second}"
            for kind, scores in kinds.items():
                settings = {"pair": pair, "share": float(share), "kind": kind}
                found.append(Experiment(group, kind.capitalize(), settings, {"found": scores[share]}))
    return found


def place_of(cell: str) -> str:
    """A layer and a place in words."""
    place, _, layer = cell.partition(", ")
    return {FIRST: "Last prompt token", SUBJECT: "Subject's last token"}[place] + f", {layer}"


def soft_prompts() -> list[Experiment]:
    """What is said with so many free vectors, by behaviour."""
    metrics = results("soft_prompts")
    return [
        Experiment(words, f"Vectors: {count}", {"behaviour": behaviour, "vectors": int(count)}, {"said": parts})
        for behaviour, words in called("behaviours").items()
        for count, parts in metrics[behaviour].items()
    ]


def free_words() -> list[Experiment]:
    """What stands in texts about gradients that nobody parses, and which gradient each picks."""
    metrics, texts = results("free_words"), called("texts")
    return [
        Experiment(words, text, {"gradients": group, "text": name}, dict.fromkeys(("decoupling", "texts"), found[name]))
        for group, words in called("groups").items()
        if (found := metrics.get(group))
        for name, text in texts.items()
    ]


MADE: dict[str, Callable[[], list[Experiment]]] = {
    LADDER: ladder,
    LEAVE_ONE_OUT: domains_left_out,
    "suppress": suppressed,
    "concepts": explained,
    "mixtures": mixtures,
    "soft_prompts": soft_prompts,
    "free_words": free_words,
}


def main() -> None:
    """Makes the table of stages that have run, and names it in params.yaml, and with that in dvc.yaml."""
    line = parser(__doc__, "tools.sweep_table")
    line.add_argument("name", metavar="NAME", choices=MADE, help="%(choices)s")
    name, params = line.parse_args().name, read_params()
    path, found = FOLDER / f"{name}.csv", MADE[name]()
    with replacing(path) as partial:
        table_of(found, params, params["projector"]["seeds"][:1]).write_csv(partial)
    text = params_file.read()
    shown = list(params_file.content(text)["report"]["sweeps"])
    if name not in shown:
        params_file.write(params_file.edited(text, {"report.sweeps": [*shown, name]}))
    differences(Path.cwd(), write=True)
    print(f"{path}: {len(found)} rows; commit it with data/sweep and stages/sweeps; dvc repro shows it on the page")


if __name__ == "__main__":
    run(main)
