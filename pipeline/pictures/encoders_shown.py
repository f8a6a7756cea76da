"""The runs that the stage diagnose picked for a data set, one for each backbone, and the weights they left."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from pipeline.core.selected_run import picked_weights, read_pick, stale
from pipeline.models.weights import read_description
from pipeline.runtime.errors import UserError
from pipeline.schema.parameters import Pretrain, Probe
from pipeline.settings.cells import Cell
from pipeline.settings.grid import Listing


class Run(NamedTuple):
    """A picked run: its cell with the settings of it, its weights, and what they say of themselves."""

    cell: Cell
    pretrain: Pretrain
    probe: Probe
    weights: Path
    model: dict[str, Any]


def picked_runs(listing: Listing, dataset: str) -> dict[str, Run]:
    """Return the run picked for each backbone of a data set, by the backbone's name, in the order of the grid.

    Args:
        listing: the grid.
        dataset: one of its data sets.

    Raises:
        UserError: there is no pick, it names a cell that the grid lacks, or its weights are absent or others.
    """
    picks, cells = read_pick(dataset, listing.path)["by_backbone"], {cell.key: cell for cell in listing.cells}
    order = [name for name in listing.params.grid.backbones if name in picks]
    return {name: _run(listing, cells, picks[name], stale(dataset, listing.path)) for name in order}


def _run(listing: Listing, cells: dict[str, Cell], pick: dict[str, Any], remedy: str) -> Run:
    if pick["cell"] not in cells:
        raise UserError(f"the grid has no cell {pick['cell']}; {remedy}")
    weights, cell = picked_weights(pick, remedy), cells[pick["cell"]]
    return Run(cell, *listing.settings(cell)[:2], weights, read_description(weights, remedy=remedy))
