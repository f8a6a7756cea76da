"""Code that determines a result: the rooms (packages of pipeline/) that a stage's program imports.

DVC's dependencies, the identity of a checkpoint and the tests use this one definition.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path

LIBRARY = Path(__file__).parents[1]
NO_RESULT = frozenset({"runtime", "tracking", "catalogue", "schema", "settings"})
"""Outside: what they decide reaches a stage as a file that it depends on (resolved settings), or changes no number."""
OWN = "objectives"
"""Folder of the clone with the user's own objectives."""


@cache
def imports(path: Path, root: Path = LIBRARY.parent) -> frozenset[str]:
    """Return the absolute module names a file imports; `from pipeline import x` counts as pipeline.x as well.

    Args:
        path: the file.
        root: folder that absolute names begin in; the file's own package, which relative ones begin in, lies below it.
    """
    package = path.parent.relative_to(root).parts
    return frozenset(imports_of(path.read_text(encoding="utf-8"), package))


def imports_of(code: str, package: Sequence[str] = ()) -> set[str]:
    """Return the absolute module names that the code of a module of `package` imports, as `imports` does."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            start = package[: max(0, len(package) - node.level + 1)] if node.level else ()
            base = [*start, *([node.module] if node.module else [])]
            found |= {".".join(base)} | {".".join([*base, alias.name]) for alias in node.names}
    return found


@cache
def local_imports(path: Path, root: Path) -> frozenset[Path]:
    """Return the files of the repository that a file imports, with the `__init__` of every package on the way."""
    return frozenset(file for name in imports(path, root) for file in module_files(name, root))


def module_files(name: str, root: Path) -> set[Path]:
    """Return the files of the repository that importing a module loads first: its own, and every package's above it."""
    parts = name.split(".")
    heads = (root.joinpath(*parts[:end]) for end in range(1, len(parts) + 1))
    return {file for head in heads for file in (head.with_suffix(".py"), head / "__init__.py") if file.exists()}


def import_closure(program: Path, root: Path) -> set[Path]:
    """Return all files of the repository that running a program may load."""
    found: set[Path] = set()
    todo = [program]
    while todo:
        current = todo.pop()
        if current not in found:
            found.add(current)
            todo += local_imports(current, root)
    return found


def rooms(program: str) -> list[Path]:
    """Return what the result of a stage is determined by: rooms, files beside them, and the program itself.

    Args:
        program: name of a module of stages/.

    Returns:
        Paths relative to the clone, sorted.
    """
    root = LIBRARY.parent
    own = root / "stages" / f"{program}.py"
    left_out = {"runtime", "tracking"} if program == "configure" else NO_RESULT  # its results are the settings
    found = set()
    for path in import_closure(own, root) - {LIBRARY / "__init__.py"}:
        if LIBRARY in path.parents:
            room = path.relative_to(LIBRARY).parts[0]
            found |= {Path("pipeline", room)} if room not in left_out else set()
    return sorted(found | {own.relative_to(root)})


def sources(program: str) -> list[Path]:
    """Return the files of `rooms`, sorted."""
    files = (path for place in rooms(program) for path in _files(LIBRARY.parent / place))
    return sorted(files)


def _files(place: Path) -> list[Path]:
    return [place] if place.is_file() else list(place.rglob("*.py"))


def own_objective(name: str) -> dict[str, str]:
    """Return the files of objectives/ that a user's own objective may load, with their digests; none of another's.

    Args:
        name: value of `pretrain.objective`; objectives.<file>.<Class> is the user's own.
    """
    module, _, _ = name.rpartition(".")
    if module.partition(".")[0] != OWN:
        return {}
    root, found = LIBRARY.parent, set[Path]()
    for program in module_files(module, root):
        found |= import_closure(program, root)
    files = sorted(path for path in found if root / OWN in path.parents)
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
