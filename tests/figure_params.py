"""The parameter file of a figure or table without a grid, its miniature laid over it, in a folder of its own."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import yaml

PAPER = Path(__file__).parents[1] / "paper"


def small_settings(name: str) -> tuple[str, dict[str, Any]]:
    """Return the section of paper/<name>/params.yaml and its miniature's values."""
    values = yaml.safe_load((PAPER / name / "params.yaml").read_text(encoding="utf-8"))
    ((section, small),) = values["miniature"].items()
    return section, values[section] | small


def small_params(root: Path, name: str, **changes: Any) -> str:
    """Write paper/<name>/ below root; `changes` replace values of the miniature."""
    section, values = small_settings(name)
    path = root / "paper" / name / "params.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(yaml.safe_dump({section: values | changes}), encoding="utf-8")
    if (PAPER / name / "published.csv").exists():
        shutil.copy(PAPER / name / "published.csv", path.parent)
    return str(path)
