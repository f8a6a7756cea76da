"""Cells of one parameter file, and who trains the weights of each.

Pipelines under paper/ have a cells.yaml beside params.yaml, written by `python -m stages.expand` and read by DVC: a
line removed there is a cell that is not run. Without that file (the root) every combination of the grid is run.
"""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.catalogue.validation import ParamsError, read_yaml
from pipeline.runtime.project import grid_name, shown
from pipeline.schema.parameters import Params
from pipeline.settings.cells import Cell, Resolver, grid_cells, identity
from pipeline.settings.params import open_params

LISTING = "cells.yaml"
PARAMS = "params.yaml"
PUBLISHED = "published.csv"


@dataclass(frozen=True)
class Listing:
    """A parameter file with its cells.

    Attributes:
        path: the parameter file.
        settings: gives the settings of a cell.
        grid: name of the grid.
        cells: what is run, in order.
        owners: per trained cell the one that trains its weights: itself, an earlier cell of this grid, or one of a
            pipeline that `shares` names.
    """

    path: Path
    settings: Resolver
    grid: str
    cells: list[Cell]
    owners: dict[Cell, Cell]

    @property
    def params(self) -> Params:
        """The validated parameter file."""
        return self.settings.params

    @property
    def trained(self) -> list[Cell]:
        """The cells that this pipeline pretrains."""
        return [cell for cell in self.cells if self.owners.get(cell) == cell]

    def weights(self, cell: Cell) -> str:
        """Path of the weights that a cell's probe reads."""
        if cell.frozen:
            return f"models/{cell.backbone}/backbone.safetensors"
        return f"{self.owners[cell].folder}/pretrain/backbone.safetensors"

    def beside(self, cell: Cell) -> str:
        """Path of what a probe reads beside the weights: the projector, or what a frozen model says of itself."""
        if cell.frozen:
            return f"models/{cell.backbone}/model.json"
        return f"{self.owners[cell].folder}/pretrain/projector.safetensors"


def open_listing(path: str | Path = "params.yaml", *, whole: bool = False) -> Listing:
    """Read a parameter file and its list of cells.

    Args:
        path: params.yaml of the root or of a pipeline.
        whole: every cell that the grid has, whatever cells.yaml lists.

    Raises:
        ParamsError: for broken parameters, or a cells.yaml that does not fit them.
    """
    path, settings, grid = Path(path), open_params(path), grid_name(path)
    cells = possible_cells(path, settings.params, grid)
    listing = path.with_name(LISTING)
    if not listing.exists() and (grid != "default" and not whole):
        remedy = f"run: python -m stages.expand {shown(path.parent)}"
        if path.name != PARAMS:  # a copy: stages.expand would look for the other name
            remedy = f"a pipeline's file is called {PARAMS}; a copy for trying belongs into the clone's top folder"
        raise ParamsError(str(path), [f"there is no {listing} beside it; {remedy}"])
    if whole or not listing.exists():
        return Listing(path, settings, grid, cells, _owners(path, settings, cells))
    listed = (read_yaml(listing).get("cells") or {}).get("probe") or {}
    cells = [cell for cell in cells if cell.key in listed]
    found = Listing(path, settings, grid, cells, _owners(path, settings, cells))
    expected = {
        cell.key: {"dataset": cell.probed_on, "weights": found.weights(cell), "beside": found.beside(cell)}
        for cell in cells
    }
    stale = [key for key, entry in listed.items() if expected.get(key) != entry]
    if stale:
        remedy = f"do not follow from params.yaml; run: python -m stages.expand {shown(listing.parent)}"
        raise ParamsError(str(listing), [f"{len(stale)} entries of probe ({', '.join(stale[:3])}, ...) {remedy}"])
    return found


def possible_cells(path: Path, params: Params, grid: str) -> list[Cell]:
    """Return the cells of a grid, of the published ones alone if it says so.

    Raises:
        ParamsError: if the root uses what only pipelines with a cells.yaml can.
    """
    extra = [name for name in ("axes", "models", "targets", "only_published") if getattr(params.grid, name)]
    if grid == "default" and extra:
        remedy = "make a folder with its own params.yaml, as paper/table5, and run: python -m stages.expand FOLDER"
        raise ParamsError(str(path), [f"grid.{name} is not for the root's grid; {remedy}" for name in extra])
    cells = grid_cells(params, grid)
    if not params.grid.only_published:
        return cells
    rows = published_rows(path)
    return [cell for cell in cells if any(is_about(row, cell) for row in rows)]


def published_rows(path: Path) -> list[dict[str, str]]:
    """Read the published numbers beside a parameter file; none if there are none."""
    published = path.with_name(PUBLISHED)
    if not published.exists():
        return []
    with published.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def is_about(row: dict[str, str], cell: Cell) -> bool:
    """Whether a published number belongs to a cell: every column named like an axis agrees; others are notes."""
    return all(plain(row[axis]) == plain(value) for axis, value in cell.axes.items() if axis in row)


def plain(value: Any) -> str:
    """Write an axis value, so that 0.010, "1e-2" and 0.01 read the same; None is empty."""
    if value is None or isinstance(value, bool):
        return "" if value is None else str(value).lower()
    try:
        number = float(value)
    except ValueError:
        return str(value)
    return str(int(number)) if math.isfinite(number) and number.is_integer() else str(number)


def _owners(path: Path, settings: Resolver, cells: list[Cell]) -> dict[Cell, Cell]:
    trainers: dict[str, Cell] = {}
    for name in settings.params.shares:
        other = open_listing(path.parent.parent / name / path.name)
        for cell in other.trained:
            trainers.setdefault(identity(other.settings, cell), cell)
    trained = [cell for cell in cells if not cell.frozen]
    return {cell: trainers.setdefault(identity(settings, cell), cell) for cell in trained}
