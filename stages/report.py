"""Writes the report page.

Reads data/evaluation/metrics.json, reports.parquet, answers.parquet and grid.csv, data/projector/projector.json and
curve.csv, data/model/model.json and, where there is one, data/model/curve.csv; and data/sweep/<name>.csv of each of
report.sweeps.
Writes data/report/index.html: one file, which works offline and asks for nothing from outside. Params: report; all
sections but api are shown. No GPU; about a second.

  python -m stages.report
"""

from pathlib import Path

from .core.page.inputs import read_inputs
from .core.page.page import render
from .core.run.files import replacing
from .core.run.stage import parse, run

PAGE = Path("data/report/index.html")


def main() -> None:
    """Writes the page."""
    parse(__doc__, "report", by_domain=False)
    inputs = read_inputs()
    html = render(inputs)
    with replacing(PAGE) as partial:
        partial.write_text(html, encoding="utf-8", newline="\n")
    print(f"{PAGE}: {len(html.encode()) // 1000} kB, made from {len(inputs.reports)} reports; open it in a browser")


if __name__ == "__main__":
    run(main)
