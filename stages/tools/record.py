"""Keeps in git what a review needs and DVC's data would have to be pulled for.

Reads dvc.lock. Copies data/evaluation/metrics.json and data/labels/metrics/*.json, byte for byte, to docs/results/, so
that dvc.lock's hashes prove which run they are of; adds what each stage cost when it last ran (from .cache/costs, which
the stages write) to docs/results/costs.json. Run it after `dvc repro` (make repro does), and commit
docs/results with dvc.lock. No GPU, at once.

  python -m stages.tools.record
"""

import shutil
from pathlib import Path
from typing import Any

from ..core.run.errors import InputError
from ..core.run.files import read_json, read_yaml, replacing, write_json
from ..core.run.stage import errors_in_one_line, parse

RESULTS = Path("docs/results")
COSTS = Path(".cache/costs")
METRICS, LABELS = Path("data/evaluation/metrics.json"), Path("data/labels/metrics")
"""The file and the folder that are copied."""


def copy_of(out: str) -> Path | None:
    """Where the copy of an output of dvc.lock lies; None if none is kept."""
    path = Path(out)
    if path == METRICS:
        return RESULTS / path.name
    return RESULTS / "labels" / path.name if path.parent == LABELS else None


def record() -> list[Path]:
    """Copies metrics and gathers costs; returns what it wrote.

    Raises:
        InputError: nothing has been run yet.
    """
    lock = Path("dvc.lock")
    if not lock.is_file():
        raise InputError(f"{lock}: no such file: nothing has been run yet; run dvc repro")
    stages: dict[str, Any] = read_yaml(lock)["stages"]
    shutil.rmtree(RESULTS / "labels", ignore_errors=True)  # of domains that may be gone
    written = []
    for entry in stages.values():
        for out in entry.get("outs", []):
            copy = copy_of(out["path"])
            if copy is not None and Path(out["path"]).is_file():
                with replacing(copy) as partial:
                    shutil.copyfile(out["path"], partial)
                written.append(copy)
    path = RESULTS / "costs.json"
    costs = read_json(path) if path.is_file() else {}
    costs |= {file.stem: read_json(file) for file in COSTS.glob("*.json")}
    write_json(path, {name: cost for name, cost in costs.items() if name in stages})
    return [*written, path]


def main() -> None:
    """Copies the results to docs/results and says how many files there are."""
    parse(__doc__, "tools.record", by_domain=False)
    with errors_in_one_line():
        written = record()
    print(f"{RESULTS}: {len(written)} files; commit them with dvc.lock")


if __name__ == "__main__":
    main()
