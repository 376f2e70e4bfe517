"""The commands that the documentation shows."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

from tests.pipeline import tiny

DOCS = tiny.ROOT / "docs"


def blocks(page: str, language: str = "sh") -> list[str]:
    """The page's blocks in a language."""
    text = (DOCS / page).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def arguments(page: str) -> list[list[str]]:
    """The arguments of each `gradaware` command in the page's shell blocks."""
    lines = [line for block in blocks(page) for line in block.replace("\\\n", " ").splitlines()]
    return [shlex.split(line.partition(" > ")[0])[1:] for line in lines if line.startswith("gradaware ")]


def columns(page: str) -> list[str]:
    """The columns that the page's table of what is written names."""
    text = (DOCS / page).read_text(encoding="utf-8").partition("## What is written")[2].partition("\n## ")[0]
    _, *cells = re.findall(r"^\| ([a-z_, ]+) \|", text, re.MULTILINE)
    return [name for cell in cells for name in cell.split(", ")]


def run(page: str, root: Path) -> str:
    """Runs the page's shell blocks in `root`, `make` left out; returns what they print."""
    tools = f'gradaware() {{ {shlex.quote(sys.executable)} -m stages.tools.cli "$@"; }}; make() {{ echo "make $*"; }}'
    script = "\n".join(["set -e", tools, *blocks(page)])
    done = subprocess.run(["bash", "-c", script], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout
