"""Which code determines a result: the rooms (folders of pipeline/) that a stage's program imports.

DVC's dependencies, the identity of a checkpoint and the tests use this one definition.
"""

from __future__ import annotations

import ast
import hashlib
from functools import cache
from pathlib import Path

LIBRARY = Path(__file__).parents[1]
NO_RESULT = frozenset({"runtime", "tracking", "catalogue", "schema", "settings"})
"""Outside: what they decide reaches a stage as a file that it depends on (resolved settings), or changes no number."""
OWN = "objectives"
"""Folder of the clone with the user's own objectives."""
ALL_ROOMS = frozenset({"configure"})
"""Programs whose results are the resolved settings."""


@cache
def imports(path: Path) -> frozenset[str]:
    """Return the absolute module names a file imports; `from pipeline import x` counts as pipeline.x as well."""
    return frozenset(imports_of(path.read_text(encoding="utf-8")))


def imports_of(code: str) -> set[str]:
    """Return the absolute module names that code imports, as `imports` does."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@cache
def local_imports(path: Path, root: Path) -> frozenset[Path]:
    """Return the files of the repository that a file imports, with the `__init__` of every package on the way."""
    found = set()
    for name in imports(path):
        parts = name.split(".")
        heads = (root.joinpath(*parts[:end]) for end in range(1, len(parts) + 1))
        found |= {file for head in heads for file in (head.with_suffix(".py"), head / "__init__.py") if file.exists()}
    return frozenset(found)


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
    left_out = {"runtime", "tracking"} if program in ALL_ROOMS else NO_RESULT
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
    root = LIBRARY.parent
    program = root.joinpath(*module.split(".")).with_suffix(".py")
    if root / OWN not in program.parents or not program.is_file():
        return {}
    files = sorted(path for path in import_closure(program, root) if root / OWN in path.parents)
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
