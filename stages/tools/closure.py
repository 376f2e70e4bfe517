"""What a stage's code reads, found without running it: imported modules, files beside them, sections of params.yaml.

Modules come from the import graph (grimp): every module of the package `stages` that is imported, directly or not, in a
function or at the top. A file that is no Python (a template, a style sheet, a prompt) counts as read by a module, or by
another such file, that has its bare name in quotes. A module imported by a computed name can't be seen; it stands in
BY_NAME, and a dynamic import anywhere else is an error.
"""

import ast
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import grimp

from ..core.run.errors import InputError
from ..core.run.params import value_at

PACKAGE = "stages"
# Module that imports by name -> the module that it then imports, {key} being a key of params.yaml.
BY_NAME = {
    "stages.labels": "stages.labellers.{labels.backend}",
    "stages.prompts": "stages.generators.{prompts.generator}",
}
PUBLIC = Path(PACKAGE, "__init__.py")
"""The one __init__.py with content: it loads what people import, when asked for, and no stage asks for it."""
SWEEPS = Path(PACKAGE, "sweeps")
"""Holds another dvc.yaml and what it reads: for DVC, and read by no module."""
DYNAMIC = {"import_module", "__import__", "find_spec", "spec_from_file_location", "run_module", "run_path"}
QUOTED = re.compile(r"""["']([\w.-]+)["']""")
tree = cache(ast.parse)


class Closure:
    """The import graph of the package below `root`, and what the files beside its modules are."""

    def __init__(self, root: Path) -> None:
        self.root = root
        with imported_from(root):
            self.graph = grimp.build_graph(PACKAGE, cache_dir=None)
        self.assets: dict[str, list[Path]] = {}
        for path in sorted(path for path in (root / PACKAGE).rglob("*") if path.is_file()):
            name = path.relative_to(root)
            if path.name == "__init__.py" and name != PUBLIC and path.read_text(encoding="utf-8").strip():
                raise InputError(f"{name}: found content, wanted an empty file: it would be a hidden dependency")
            if path.suffix not in (".py", ".pyc") and path.parent != root / SWEEPS:
                self.assets.setdefault(path.name, []).append(path)

    def files(self, stage: str, params: dict[str, Any]) -> list[str]:
        """The files of the package that `python -m stages.<stage>` imports and reads, the stage's own first.

        `stage`: a module below the package, such as "labels" or "tools.real_step".

        Raises:
            InputError: there is no such module, or one in the closure imports by a computed name and isn't in BY_NAME.
        """
        waiting = [self.path(module) for module in self.modules(f"{PACKAGE}.{stage}", params)]
        found: set[Path] = set()
        while waiting:
            path = waiting.pop()
            if path not in found and path.name != "__init__.py":
                found.add(path)
                waiting += self.read_by(path)
        names = sorted(path.relative_to(self.root).as_posix() for path in found)
        own = f"{PACKAGE}/{stage.replace('.', '/')}.py"
        return [own, *(name for name in names if name != own)]

    def modules(self, start: str, params: dict[str, Any]) -> set[str]:
        """`start` and all modules of the package that it imports."""
        found: set[str] = set()
        waiting = [start]
        while waiting:
            module = waiting.pop()
            if module not in self.graph.modules:
                file = f"{module.replace('.', '/')}.py"
                raise InputError(f"{file}: no such module, but dvc.yaml or params.yaml asks for it")
            new = ({module} | self.graph.find_upstream_modules(module)) - found
            found |= new
            waiting += [filled(BY_NAME[name], params)[0] for name in new & BY_NAME.keys()]
            for path in map(self.path, new - BY_NAME.keys()):
                if call := dynamic_import(path):
                    raise InputError(
                        f"{path.relative_to(self.root)}: {call} imports by a computed name, which no tool can follow; "
                        "import it by its name, or say what it imports in stages/tools/closure.py: BY_NAME"
                    )
        return found

    def path(self, module: str) -> Path:
        """The module's file."""
        base = self.root.joinpath(*module.split("."))
        return base / "__init__.py" if base.is_dir() else base.with_suffix(".py")

    def read_by(self, path: Path) -> list[Path]:
        """The files that are no Python and whose names stand in quotes in `path`."""
        if path.suffix == ".py":
            quoted = {node.value for node in ast.walk(parsed(path)) if isinstance(node, ast.Constant)}
        else:
            quoted = set(QUOTED.findall(path.read_text(encoding="utf-8")))
        return [asset for name, assets in self.assets.items() if name in quoted for asset in assets]

    def sections(self, stage: str) -> list[str]:
        """The sections of params.yaml that the stage gives to `read_sections`; none: it reads the whole file."""
        module = parsed(self.path(f"{PACKAGE}.{stage}"))
        classes = {node.name: node for node in module.body if isinstance(node, ast.ClassDef)}
        calls = [node for node in ast.walk(module) if isinstance(node, ast.Call)]
        found: list[str] = []
        for kind in (call.args[0] for call in calls if getattr(call.func, "id", "") == "read_sections"):
            assert isinstance(kind, ast.Name) and kind.id in classes, f"{stage}: read_sections: wanted its own class"
            fields = [item.target for item in classes[kind.id].body if isinstance(item, ast.AnnAssign)]
            found += [field.id for field in fields if isinstance(field, ast.Name)]
        return list(dict.fromkeys(found))


@contextmanager
def imported_from(root: Path) -> Iterator[None]:
    """The package below `root` is the one that is found, whichever is installed or imported already."""
    own = sys.modules.pop(PACKAGE, None)
    sys.path.insert(0, str(root))
    try:
        yield
    finally:
        sys.path.remove(str(root))
        if own is not None:
            sys.modules[PACKAGE] = own


def parsed(path: Path) -> ast.Module:
    """The module's syntax tree."""
    return tree(path.read_text(encoding="utf-8"))


def dynamic_import(path: Path) -> str:
    """The name of the function by which the module imports at run time; "" if it doesn't."""
    calls = [node.func for node in ast.walk(parsed(path)) if isinstance(node, ast.Call)]
    names = (getattr(call, "attr", getattr(call, "id", "")) for call in calls)
    return next((name for name in names if name in DYNAMIC), "")


def filled(pattern: str, params: dict[str, Any]) -> list[str]:
    """`pattern` with its {key} replaced by the value of that key of params.yaml, or by each item if that is a list.

    Raises:
        InputError: params.yaml has no such key.
    """
    field = re.search(r"\{([\w.]+)\}", pattern)
    if field is None:
        return [pattern]
    value = value_at(params, field.group(1))
    values = value if isinstance(value, list) else [value]
    return [pattern.replace(field.group(0), str(item)) for item in values]
