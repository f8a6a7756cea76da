"""Where things are: the clone, and the DVC project in it that a parameter file belongs to."""

from __future__ import annotations

from pathlib import Path


def repository() -> Path:
    """Return the clone: the nearest folder at or above the working directory with a pyproject.toml, else that one."""
    here = Path.cwd()
    return next((folder for folder in (here, *here.parents) if (folder / "pyproject.toml").is_file()), here)
