"""The files that `stages.configure` writes for a cell, each a frozen model that stages read back.

`pretrain.json` and `probe.json` hold what determines a result; stages of DVC depend on them. `execution.json` beside
them holds what does not: how the machine does the work, what is watched, what is checked before hours of training. No
stage of DVC depends on it, by design: a stage whose dependency changes runs again, and these settings are to be changed
at any time, between two parts of a run as well. It travels with the others, in the folder that `configure` declares.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import ConfigDict, Field, ValidationError

from pipeline.catalogue.types import Plain
from pipeline.catalogue.validation import Strict, explain
from pipeline.runtime.errors import ResultError
from pipeline.runtime.files import read_json
from pipeline.schema.pretrain import Checkpoint, Layout, Loader, Pretrain, PretrainHealth, Views
from pipeline.schema.probe import Probe

EXECUTION = "execution.json"


class Resolved(Strict):
    """Contents of a file of settings."""

    model_config = ConfigDict(populate_by_name=True)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read the file back.

        Raises:
            ResultError: if it is missing, broken, or of another version.
        """
        return cls._checked(read_json(path), path)

    @classmethod
    def _checked(cls, told: dict[str, Any], path: Path) -> Self:
        try:
            return cls.model_validate(told)
        except ValidationError as error:
            problem = explain(error, cls)[0]
            raise ResultError(f"{path} is not as this version writes it ({problem}); run: dvc repro") from None


class Execution(Resolved):
    """Contents of execution.json: the sections of `pretrain` that never change a result, and what will be probed."""

    loader: Loader
    health: PretrainHealth
    checkpoint: Checkpoint
    layout: Layout
    probe: Probe

    @classmethod
    def of(cls, pretrain: Pretrain, probe: Probe) -> Execution:
        """Take the settings of a cell apart."""
        return cls(**{name: getattr(pretrain, name) for name in pretrain.runtime_sections()}, probe=probe)


class CellRun(Resolved):
    """What the files of a cell have in common: its axes."""

    grid: str
    cell: str
    dataset: str
    backbone: str
    lamb: int | float | None = Field(alias="lambda")
    seed: int
    target: str
    choices: dict[str, Plain]


class PretrainRun(CellRun):
    """Settings of one pretraining: pretrain.json, completed by what execution.json holds.

    Attributes:
        backbone_kwargs: of timm.create_model.
        data: folder of the packed data set.
        embed_dim: D, as the backbone has it.
        out: folder of the results.
        objective_files: digests of the user's own files that the objective is made of.
        probe: what the cell's own probe will ask of the data; changes nothing here.
    """

    backbone_kwargs: dict[str, Any]
    data: str
    embed_dim: int
    out: str
    objective_files: dict[str, str] = Field({})
    pretrain: Pretrain
    probe: Probe

    @classmethod
    def read(cls, path: Path) -> PretrainRun:
        """Read pretrain.json and the execution.json beside it."""
        told, execution = read_json(path), Execution.read(path.with_name(EXECUTION))
        runtime = {name: getattr(execution, name) for name in Pretrain.runtime_sections()}
        whole = {"pretrain": told.get("pretrain", {}) | runtime, "probe": execution.probe}
        return cls._checked(told | whole, path)

    def result_key(self) -> dict[str, Any]:
        """Return what determines the result, as JSON value: the contents of pretrain.json."""
        key = self.model_dump(mode="json", by_alias=True, exclude={"probe"})
        return key | {"pretrain": self.pretrain.result_key()}


class TrainedWith(Strict):
    """What a probe has to know of the training whose projector it measures."""

    batch_size: int
    objective: str
    objective_settings: dict[str, Plain]
    objective_files: dict[str, str] = Field({})

    @classmethod
    def of(cls, pretrain: Pretrain, objective_files: dict[str, str]) -> TrainedWith:
        """Take it from the settings of a training and the digests of its objective."""
        told = {"objective_settings": pretrain.objective_settings(), "objective_files": objective_files}
        return cls(batch_size=pretrain.batch_size, objective=pretrain.objective, **told)


class ProbeRun(CellRun):
    """Settings of one probe: probe.json, completed by what execution.json holds.

    Attributes:
        model: model.json of a frozen model, which says how it is built and what it was shown; None: trained here.
        backbone_kwargs: of timm.create_model; of a frozen model none.
        data: folder of the packed data set.
        weights, beside: files that the probe reads.
        out: folder of the results.
        views: those of training; of a frozen model, what model.json says of size and colours counts.
    """

    model: str | None = None
    backbone_kwargs: dict[str, Any] = Field({})
    data: str
    weights: str
    beside: str
    out: str
    device: Literal["auto", "cpu", "cuda", "mps"]
    precision: Literal["auto", "float32", "bfloat16"]
    load_px: int
    views: Views
    trained: TrainedWith
    probe: Probe
    loader: Loader

    @classmethod
    def read(cls, path: Path) -> ProbeRun:
        """Read probe.json and the execution.json beside it."""
        execution = Execution.read(path.with_name(EXECUTION))
        return cls._checked(read_json(path) | {"loader": execution.loader}, path)

    def result_key(self) -> dict[str, Any]:
        """Return what determines the result, as JSON value: the contents of probe.json."""
        return self.model_dump(mode="json", by_alias=True, exclude={"loader"})
