"""The runs that the stage diagnose picked for a data set, one for each backbone, and the weights they left."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from pipeline.core.selected_run import picked_weights, read_pick, stale
from pipeline.models.weights import read_description
from pipeline.schema.pretrain import Loader
from pipeline.schema.resolved_analyses import PicturesRun, Shown


class Run(NamedTuple):
    """A picked run: its pick, its weights, what they say of themselves, and how it is shown images of a data set."""

    dataset: str
    pick: dict[str, Any]
    weights: Path
    model: dict[str, Any]
    shown: Shown
    loader: Loader


def picked_runs(settings: PicturesRun, dataset: str) -> dict[str, Run]:
    """Return the run picked for each backbone of a data set, by the backbone's name, in the order of the grid.

    Args:
        settings: of the pictures.
        dataset: one of the grid's data sets.

    Raises:
        UserError: there is no pick, or its weights are absent or others.
    """
    picks, remedy = read_pick(dataset, settings.params_path)["by_backbone"], stale(dataset, settings.params_path)
    found = {}
    for name in (name for name in settings.backbones if name in picks):
        pick = picks[name]
        weights, shown = picked_weights(pick, remedy), Shown.model_validate(pick["shown"])
        model = read_description(weights, remedy=remedy)
        found[name] = Run(dataset, pick, weights, model, shown, settings.execution.loader)
    return found
