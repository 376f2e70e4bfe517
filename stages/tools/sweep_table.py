"""Makes a table of data/sweep from its experiments' results and names it in params.yaml, so that the page shows it.

Reads params.yaml and the results that the stages of stages/sweeps/dvc.yaml wrote below data/sweep/. Writes
data/sweep/NAME.csv, one row an experiment, params.yaml (`report.sweeps`) and dvc.yaml. No GPU, at once.

  python -m stages.tools.sweep_table leave_one_out
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..core.evaluate.estimate import from_json
from ..core.page.inputs import read_params
from ..core.page.sweep import FOLDER, LEAVE_ONE_OUT, OTHER_TEACHER, Experiment, table_of
from ..core.run.files import read_json, replacing
from ..core.run.stage import parser, run
from . import leave_one_out, other_teacher, params_file
from .dependencies import differences


def publish(name: str, found: Sequence[tuple[Experiment, dict[str, Any]]], seeds: list[int]) -> None:
    """Writes data/sweep/<name>.csv and names it in params.yaml, and with that in dvc.yaml.

    `found`: the experiments with the groups of metrics of each. `seeds`: the projector's.
    """
    path = FOLDER / f"{name}.csv"
    with replacing(path) as partial:
        experiments, metrics = map(list, zip(*found, strict=True))
        table_of(experiments, metrics, read_params(), seeds).write_csv(partial)
    text = params_file.read()
    shown = list(params_file.content(text)["report"]["sweeps"])
    if name not in shown:
        params_file.write(params_file.edited(text, {"report.sweeps": [*shown, name]}))
    differences(Path.cwd(), write=True)
    print(f"{path}: {len(found)} rows; commit it with data/sweep and stages/sweeps; dvc repro shows it on the page")


def main() -> None:
    """Makes the table of one of the stages that are no sweep."""
    line = parser(__doc__, "tools.sweep_table")
    line.add_argument("name", metavar="NAME", choices=(LEAVE_ONE_OUT, OTHER_TEACHER), help="%(choices)s")
    name, params = line.parse_args().name, read_params()
    if name == LEAVE_ONE_OUT:
        found = [
            (
                Experiment("Never trained on", domain, {"held_out_domains": [domain]}),
                read_json(leave_one_out.FOLDER / f"{domain}.json"),
            )
            for domain in params["domains"]
        ]
    else:
        result = read_json(other_teacher.SCORES)
        found = [(Experiment(result["group"], words, {}), scores) for words, scores in result["scores"].items()]
    publish(name, [(one, {"decoupling": from_json(scores)}) for one, scores in found], params["projector"]["seeds"][:1])


if __name__ == "__main__":
    run(main)
