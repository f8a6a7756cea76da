"""The files that `stages.configure` writes for the analyses of a grid, each a frozen model that stages read back.

As for cells (`pipeline/schema/resolved.py`), what changes no result stands apart, in configs/execution.json.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pipeline.catalogue.datasets import Dataset
from pipeline.catalogue.validation import Strict
from pipeline.runtime.files import read_json
from pipeline.runtime.project import grid_name
from pipeline.schema.analysis import Density, Pictures
from pipeline.schema.parameters import Params
from pipeline.schema.pretrain import Loader, Pretrain
from pipeline.schema.probe import Probe
from pipeline.schema.resolved import EXECUTION, Resolved


class Shown(Strict):
    """How an encoder is shown images, and where it runs: the settings of the cell that was picked."""

    load_px: int
    batch_size: int
    site: Literal["pooled", "cls_last2", "patch_mean"]
    device: Literal["auto", "cpu", "cuda", "mps"]
    precision: Literal["auto", "float32", "bfloat16"]

    @classmethod
    def of(cls, pretrain: Pretrain, probe: Probe) -> Shown:
        """Take what counts from the settings of a cell."""
        kept = {name: getattr(pretrain, name) for name in ("load_px", "device", "precision")}
        return cls(**kept, batch_size=probe.batch_size, site=probe.site)


class AnalysisExecution(Resolved):
    """Contents of configs/execution.json: how images reach the device, and the frozen models that there are."""

    loader: Loader
    models: list[str]

    @classmethod
    def of(cls, params: Params) -> AnalysisExecution:
        """Take it from a parameter file."""
        return cls(loader=params.pretrain.loader, models=list(params.models))


class AnalysisRun(Resolved):
    """What the settings of an analysis begin with.

    Attributes:
        params_path: the parameter file, for messages.
        datasets: of the grid.
        execution: of configs/execution.json; no part of the file.
    """

    params_path: str
    datasets: list[str]
    execution: AnalysisExecution

    @classmethod
    def of_grid(cls, params_path: str, name: str) -> Self:
        """Read configs/<name>.json of the grid of a parameter file, and the execution.json beside it."""
        folder = configs_folder(params_path)
        execution = AnalysisExecution.read(folder / EXECUTION)
        path = folder / f"{name}.json"
        return cls._checked(read_json(path) | {"execution": execution}, path)

    def result_key(self) -> dict:
        """Return what determines the result, as JSON value: the contents of the file."""
        return self.model_dump(mode="json", by_alias=True, exclude={"execution"})


class ScoreRun(AnalysisRun):
    """Contents of configs/score.json.

    `shown` holds for frozen models; a picked run has its own.
    """

    density: Density
    shown: Shown

    @classmethod
    def of(cls, params: Params, params_path: str) -> ScoreRun:
        """Take it from a parameter file."""
        shown = Shown.of(params.pretrain, params.probe)
        return cls(**_common(params, params_path), density=params.density, shown=shown)


class PicturesRun(AnalysisRun):
    """Contents of configs/pictures.json."""

    backbones: list[str]
    pictures: Pictures

    @classmethod
    def of(cls, params: Params, params_path: str) -> PicturesRun:
        """Take it from a parameter file."""
        return cls(**_common(params, params_path), backbones=params.grid.backbones, pictures=params.pictures)


class ForeignRun(Resolved):
    """Contents of configs/foreign.json: the sets of density.sets that are not in the grid, with their sources."""

    sets: dict[str, Dataset]

    @classmethod
    def of(cls, params: Params) -> ForeignRun:
        """Take it from a parameter file."""
        names = (name for name in params.density.sets if name not in params.grid.datasets)
        return cls(sets={name: params.datasets[name] for name in names})


def _common(params: Params, params_path: str) -> dict:
    execution = AnalysisExecution.of(params)
    return {"params_path": params_path, "datasets": params.grid.datasets, "execution": execution}


def configs_folder(params_path: str | Path) -> Path:
    """Return where the resolved settings of a parameter file's grid lie."""
    return Path("runs") / grid_name(params_path) / "configs"
