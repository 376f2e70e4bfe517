"""Writes into dvc.yaml what no one keeps right by hand: code dependencies, params sections, members that are gathered.

  python -m stages.tools.dependencies           writes dvc.yaml
  python -m stages.tools.dependencies --check   exits 1 if it isn't up to date, and says what differs

Of each stage: `deps` below stages/ are the import closure of stages/<stage>.py (see closure.py); `params` are the
sections that it reads, without BESIDE; `meta.gathers` holds patterns such as data/prompts/{domains}.parquet, whose
field is a key of params.yaml, and `deps` gets one path for each item of that list, because DVC can't expand a list in
deps. Everything else, comments included, is left as it stands. Run it after an import, the list of domains or the
teacher's backend has changed (make repro and the pre-commit hook do).

A model that the pipeline doesn't train: stages `model` and `peers` then read neither facts nor questions, and a local
folder that is a model's source is a dependency of every stage that opens that model.
"""

import re
import sys
from pathlib import Path
from typing import Any

from ruamel.yaml.comments import CommentedSeq

from ..core.run.errors import InputError
from ..core.run.files import read_yaml, replacing
from ..core.run.params import PARAMS
from ..core.run.stage import errors_in_one_line, parser
from . import params_file
from .closure import PACKAGE, Closure, filled

PIPELINES = ("dvc.yaml", "stages/*/dvc.yaml")
OURS = ("data/", f"{PACKAGE}/")
"""Where all that stages read lies, but for the folder of a model of one's own."""
MODEL, PEERS, POCKET = "data/model", "data/peers", "pocket"
COMMAND = "python -m stages.tools.dependencies"
TRAINING, LESSONS = ("model", "peers"), ("domains", "questions", "held_out")
"""The stages that train pocket models, and the sections that only such a training reads."""
BESIDE = {"api": "which says what may be spent: that decides whether a teacher is asked, and not what it answers"}
"""Sections that stages read and that are none of their params, and why: editing one changes no output, so that it
must rerun nothing. Tests run the stages with other values there and compare the bytes."""
FOLDERS = {f"{PACKAGE}/generators/rows.py": "data/rows"}
"""What a module that params.yaml chooses reads beside what stands in dvc.yaml by hand."""

UNREAD = "which it doesn't read"


def wanted(stage: str, entry: dict[str, Any], closure: Closure, params: dict[str, Any]) -> dict[str, list[str]]:
    """The `deps` and `params` that a stage should have; what was written by hand keeps its place in front."""
    trained = params["model"]["source"] == POCKET
    gathers = entry.get("meta", {}).get("gathers", [])
    patterns = [re.sub(r"\\\{.*?\\\}", "[^/${}]+", re.escape(pattern)) for pattern in gathers]
    written = re.compile("|".join([f"{PACKAGE}/.*", *FOLDERS.values(), *patterns]))
    by_hand = [dep for dep in entry.get("deps") or [] if dep.startswith(OURS) and not written.fullmatch(dep)]
    code = closure.files(stage, params)
    sections = [name for name in closure.sections(stage) or params if name not in BESIDE]
    if stage in TRAINING and not trained:
        gathers, sections = [], [name for name in sections if name not in LESSONS]
    foreign = [peer["source"] for peer in params["peers"].values() if "source" in peer]
    sources = foreign if stage == "peers" or PEERS in by_hand else []
    if not trained and (stage == "model" or MODEL in by_hand or (stage == "peers" and foreign)):
        sources = [params["model"]["source"], *sources]
    by_hand += [source for source in sources if (closure.root / source).is_dir()]
    members = dict.fromkeys(path for pattern in gathers for path in filled(pattern, params))
    members |= {folder: None for module, folder in FOLDERS.items() if module in code}
    found = {"deps": [*by_hand, *members, *code], "params": sections}
    return {key: values for key, values in found.items() if values}


def replaced(old: CommentedSeq | None, new: list[str]) -> CommentedSeq:
    """`new` as a YAML list, with the comments of the items that stay and what stands below the list."""
    found = CommentedSeq(new)
    if not isinstance(old, CommentedSeq):
        return found
    if old.fa.flow_style():
        found.fa.set_flow_style()
    comments = {old[index]: comment for index, comment in old.ca.items.items()}
    found.ca.items.update({index: comments[value] for index, value in enumerate(new) if value in comments})
    last = len(old) - 1
    if last in old.ca.items and old[last] not in new:
        found.ca.items[len(new) - 1] = old.ca.items[last]
    return found


def differences(root: Path, write: bool) -> list[str]:
    """What in dvc.yaml below `root` isn't as it should be, a line each; puts it right if `write`.

    Raises:
        InputError: a stage has no script, or a closure can't be followed.
    """
    params = read_yaml(root / PARAMS)
    closure = Closure(root)
    found = []
    for path in (path for pattern in PIPELINES for path in sorted(root.glob(pattern))):
        reader = params_file.round_trip()
        pipeline = reader.load(path.read_text(encoding="utf-8"))
        lines = [line for stage, entry in pipeline["stages"].items() for line in updated(stage, entry, closure, params)]
        found += [f"{path.relative_to(root)}: {line}" for line in lines]
        if lines and write:
            with replacing(path) as partial, partial.open("w", encoding="utf-8", newline="\n") as stream:
                reader.dump(pipeline, stream)
    return found


def updated(stage: str, entry: dict[str, Any], closure: Closure, params: dict[str, Any]) -> list[str]:
    """Puts a stage's `deps` and `params` right; returns what was wrong with them, a line each."""
    entry, found = entry.get("do", entry), []
    for key, values in wanted(module_of(stage, entry), entry, closure, params).items():
        present = list(entry.get(key) or [])
        lines = [f"lacks {value}" for value in values if value not in present]
        gone = [value for value in present if value not in values]
        lines += [f"has {value}, {BESIDE.get(value, UNREAD)}" for value in gone]
        if present != values:
            found += [f"{stage}: {key}: {line}" for line in lines or ["are in another order"]]
            entry[key] = replaced(entry.get(key), values)
    return found


def module_of(stage: str, entry: dict[str, Any]) -> str:
    """The module below `stages` that the stage's command runs.

    Raises:
        InputError: the command runs none.
    """
    found = re.match(rf"python -m {PACKAGE}\.([\w.]+)", entry["cmd"])
    if found is None:
        raise InputError(f"dvc.yaml: {stage}: cmd: found {entry['cmd']!r}, wanted python -m {PACKAGE}.<stage>")
    return found[1]


def main() -> None:
    """Writes or checks dvc.yaml."""
    line = parser(__doc__, "tools.dependencies")
    line.add_argument("--check", action="store_true", help="write nothing; exit 1 if dvc.yaml isn't up to date")
    check = line.parse_args().check
    with errors_in_one_line():
        found = differences(Path.cwd(), write=not check)
    for line in found:
        print(line, file=sys.stderr if check else sys.stdout)
    if check and found:
        sys.exit(f"dvc.yaml doesn't say what the stages read; run: {COMMAND}")
    if not found:
        print("dvc.yaml: dependencies and params are what the stages read")


if __name__ == "__main__":
    main()
