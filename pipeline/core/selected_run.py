"""The selected run of a data set: the file that `stages.diagnose` writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.runtime.errors import UserError
from pipeline.runtime.files import read_json, sha256_file
from pipeline.runtime.project import REPORTS, grid_name


def pick_path(dataset: str, params_path: str | Path) -> Path:
    """Return where the pick for a data set stands."""
    return REPORTS / "diagnosis" / grid_name(params_path) / "picks" / f"{dataset}.json"


def read_pick(dataset: str, params_path: str | Path) -> dict[str, Any]:
    """Return the pick for a data set: cell, seed, weights, their sha256, and by_backbone the same for each backbone.

    Raises:
        UserError: if there is none; the message says why.
    """
    path = pick_path(dataset, params_path)
    if not path.is_file():
        raise UserError(
            f"there is no {path}, which names the runs picked for {dataset}; make it with: "
            f"python -m stages.diagnose {params_path}"
        )
    pick = read_json(path)
    if "absent" in pick:
        raise UserError(f"no run is picked for {dataset}: {pick['absent']}")
    return pick


def picked_weights(pick: dict[str, Any], remedy: str) -> Path:
    """Return the weights of a pick, or of one of its by_backbone.

    Raises:
        UserError: if they are absent or are not the ones that were picked.
    """
    weights = Path(pick["weights"])
    if not weights.is_file():
        raise UserError(f"there are no picked weights {weights}; {remedy}")
    if (found := sha256_file(weights)) != pick["sha256"]:
        raise UserError(f"{weights} has sha256 {found} and not the picked {pick['sha256']}; {remedy}")
    return weights


def stale(dataset: str, params_path: str | Path) -> str:
    """Say how to renew a pick."""
    return (
        f"{pick_path(dataset, params_path)} is out of date; run: dvc repro, or python -m stages.diagnose {params_path}"
    )
