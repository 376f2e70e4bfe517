"""House rules that a machine checks: short files, few lines, no cycle, nothing out of reach, everything documented."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from stages.tools.closure import BY_NAME, PUBLIC, Closure
from tests.pipeline import tiny

LONGEST = 330
MOST = 19_900
"""Lines of all files: 17 000 are asked for, so this goes down and never up. What comes in pays with what goes."""
FILES = sorted(path.relative_to(tiny.ROOT) for path in tiny.ROOT.glob("stages/**/*.py"))
PLUGINS = tuple(pattern.partition("{")[0] for pattern in BY_NAME.values())
"""How the names of modules begin that params.yaml chooses: a teacher, a generator."""


@pytest.fixture(scope="module")
def closure() -> Closure:
    return Closure(tiny.ROOT)


def module(path: Path) -> str:
    return ".".join(path.with_suffix("").parts).removesuffix(".__init__")


def text(path: Path) -> str:
    return (tiny.ROOT / path).read_text(encoding="utf-8")


def commands() -> set[str]:
    """The modules that are run as a command."""
    return {module(path) for path in FILES if 'if __name__ == "__main__":' in text(path)}


def test_a_file_can_be_read_in_one_sitting():
    lines = {str(path): len(text(path).splitlines()) for path in FILES}
    assert not {path: count for path, count in lines.items() if count > LONGEST}


def test_the_source_does_not_grow():
    assert sum(len(text(path).splitlines()) for path in FILES) <= MOST


def test_no_module_imports_itself_through_others(closure: Closure):
    graph = closure.graph
    edges = [(name, other) for name in graph.modules for other in graph.find_modules_directly_imported_by(name)]
    assert len(edges) > 300
    assert not [edge for edge in edges if graph.chain_exists(importer=edge[1], imported=edge[0])]


def test_every_module_is_reached_by_a_command_or_by_those_who_import_the_package(closure: Closure):
    chosen = {name for name in map(module, FILES) if name.startswith(PLUGINS)}
    reached = {module(PUBLIC)} | commands() | chosen
    reached |= {other for name in reached for other in closure.graph.find_upstream_modules(name)}
    assert not {module(path) for path in FILES if path.name != "__init__.py"} - reached


def test_every_command_stands_in_a_pipeline_the_makefile_or_the_docs():
    places = ("dvc.yaml", "stages/*/dvc.yaml", "Makefile", "README.md", "docs/*.md", ".github/workflows/*.yml")
    shown = "\n".join(path.read_text(encoding="utf-8") for place in places for path in tiny.ROOT.glob(place))
    assert not {name for name in commands() - {"stages.tools.cli"} if f"python -m {name}" not in shown}
    assert "gradaware " in shown  # stages.tools.cli


FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
CALLED_BY_TORCH = "forward"
"""What it does is said by its class."""


def undocumented(node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef, where: str) -> Iterator[str]:
    """Where a public module, class, function or method has no docstring, or one whose first line is empty."""
    if not (ast.get_docstring(node, clean=False) or "").partition("\n")[0].strip():
        yield where
    if not isinstance(node, FUNCTIONS):  # what stands inside a function is not public
        for inner in node.body:
            if isinstance(inner, (ast.ClassDef, *FUNCTIONS)) and not inner.name.startswith(("_", CALLED_BY_TORCH)):
                yield from undocumented(inner, f"{where}: {inner.name}")


def test_everything_public_says_what_it_is_in_its_first_line():
    files = [path for path in FILES if text(path).strip()]
    assert not [lost for path in files for lost in undocumented(ast.parse(text(path)), str(path))]
