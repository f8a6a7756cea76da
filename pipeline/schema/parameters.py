"""params.yaml as a whole: grid, catalogues, overrides. The other sections have modules of their own beside this one."""

from __future__ import annotations

import re
from math import prod
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field, TypeAdapter, ValidationError, field_validator, model_validator

from pipeline.catalogue.datasets import Dataset, DatasetName
from pipeline.catalogue.types import Architecture, Lambda, Plain, Rgb, SafeName, Value, without_copies
from pipeline.catalogue.validation import ParamsError, Strict, explain, read_yaml
from pipeline.schema.analysis import Density, Diagnose, Pictures
from pipeline.schema.pretrain import Pretrain
from pipeline.schema.probe import Probe

FIXED_AXES = ("dataset", "backbone", "lambda", "seed", "target")


def _check_axis_name(name: str) -> str:
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise ValueError(f"axis {name!r} must be lower-case letters, digits and '_' after a letter; rename it")
    if name in FIXED_AXES:
        raise ValueError(f"axis {name!r} is one that every grid has; set grid.{name}s, or choose another name")
    return name


AxisName = Annotated[str, AfterValidator(_check_axis_name)]


class Axis(Strict):
    """One more axis of a grid: any setting of `pretrain` or `probe`, or a name for `overrides` to act on."""

    sets: list[Annotated[str, Field(pattern=r"^(pretrain|probe)(\.[A-Za-z_][A-Za-z0-9_]*)+$")]] = Field(
        [], description="dotted paths that get the value, e.g. pretrain.sigreg.t_max"
    )
    values: list[Value] = Field(min_length=1)

    @field_validator("values")
    @classmethod
    def _distinct(cls, values: list) -> list:
        return without_copies(values)

    @property
    def probes_alone(self) -> bool:
        """Whether it sets the probe and not the pretraining."""
        return bool(self.sets) and all(path.startswith("probe.") for path in self.sets)


class BackboneRule(Strict):
    """All timm architectures of some families up to a size; `python -m stages.expand` lists them in backbones.txt."""

    families: list[str] = Field(min_length=1)
    max_params: float = Field(gt=0, description="largest number of parameters, without a classifier")


class Grid(Strict):
    """The axes of the benchmark; every combination is one cell.

    Axes, models, targets and only_published are for pipelines with a cells.yaml (`python -m stages.expand`).
    """

    datasets: list[str] = Field(min_length=1, description="names from `datasets`")
    backbones: list[Architecture] = Field([], description="timm model names")
    lambdas: list[Lambda] = Field(
        min_length=1, description="weight of the regulariser; the prediction loss has 1 - lambda"
    )
    seeds: list[Annotated[int, Field(ge=0, lt=2**31)]] = Field(min_length=1)
    axes: dict[AxisName, Axis] = Field({}, description="further axes, by name")
    models: list[str] = Field([], description="frozen models from `models`, probed beside the trained backbones")
    targets: list[str] = Field([], description="data sets to probe on; none: the one that was trained on")
    only_published: bool = Field(False, description="keep the cells that published.csv has a row for")
    selected: list[str] = Field([], description="axes whose best value, on held-out training images, a table shows")
    max_cells: int = Field(10_000, ge=1, description="a larger grid is refused: a stage costs DVC a second and more")

    @model_validator(mode="after")
    def _not_too_many(self) -> Grid:
        if self.backbones:
            names = ("datasets", "backbones", "lambdas", "seeds", "targets")
        else:
            names = ("targets" if self.targets else "datasets", "models", "seeds")
        sizes = {name: len(getattr(self, name)) for name in names if getattr(self, name)}
        sizes |= {f"axes.{name}": len(axis.values) for name, axis in self.axes.items()}
        if (num_cells := prod(sizes.values())) > self.max_cells:
            spelled = " x ".join(f"{size} {name}" for name, size in sizes.items())
            raise ValueError(
                f"must have at most max_cells = {self.max_cells} cells, got {spelled} = {num_cells}; "
                "shorten an axis or raise grid.max_cells"
            )
        return self

    @model_validator(mode="after")
    def _something_to_probe(self) -> Grid:
        if not self.backbones and not self.models:
            raise ValueError("backbones must have at least one name, got none; add one (or one to models)")
        return self

    @model_validator(mode="after")
    def _axes_exist(self) -> Grid:
        known = {"dataset", "backbone", "lambda", "target", *self.axes}
        unknown = [name for name in self.selected if name not in known]
        if unknown:
            raise ValueError(f"selected must name axes ({', '.join(sorted(known))}), got {', '.join(unknown)}")
        return self

    @field_validator("datasets", "backbones", "lambdas", "seeds", "models", "targets", "selected")
    @classmethod
    def _distinct(cls, values: list) -> list:
        return without_copies(values)


class Report(Strict):
    """What the comparison shows."""

    title: str = "LeJEPA benchmark"
    claim: str = Field("", description="what the paper says the table shows")
    decimals: int = Field(1, ge=0, le=4, description="of a percentage")
    mlflow_url: str = Field("http://127.0.0.1:5000", description="where the page finds MLflow; `make ui PORT=...`")


FOLDERS = ("local-dir:", "hf-hub:")


class Model(Strict):
    """A frozen public model of the catalogue `models`: probed as it was published, never trained here."""

    backbone: str = Field(
        min_length=1,
        description="timm name with the tag of its weights, as vit_small_patch14_dinov2.lvd142m, or a folder in timm's "
        "format: local-dir:PATH, hf-hub:REPOSITORY, hf-hub:REPOSITORY@REVISION",
    )
    pretrained_path: str | None = Field(
        None,
        min_length=1,
        description="local safetensors or torch file of tensors alone, relative to the clone; null: timm's download",
    )
    checkpoint_key: str | None = Field(
        None, min_length=1, description="entry of a torch checkpoint that holds the weights; null: timm's choice"
    )
    checkpoint_prefix: str | None = Field(
        None, min_length=1, description="of pretrained_path the weights whose names begin so, as backbone.; null: all"
    )
    random_init: bool = Field(False, description="untrained weights of seed 0 instead of published ones")
    img_size: int | None = Field(None, ge=8, le=1024, description="px; null: the size of the published weights")
    kwargs: dict[str, Plain] = Field({}, description="further arguments of timm.create_model, as global_pool: token")
    mean: Rgb | None = Field(None, description="of the pixels in [0, 1]; null: as published")
    std: Rgb | None = Field(None, description="of the pixels in [0, 1]; null: as published")

    @model_validator(mode="after")
    def _one_origin(self) -> Model:
        file = [name for name in ("pretrained_path", "checkpoint_key", "checkpoint_prefix") if getattr(self, name)]
        if self.random_init and (file or self.is_folder):
            raise ValueError("random_init must be false beside pretrained_path or checkpoint_key, got true")
        if file and self.is_folder:
            raise ValueError(f"backbone must be a timm name beside {file[0]}, got {self.backbone!r}")
        if self.checkpoint_prefix and not self.pretrained_path:
            raise ValueError("checkpoint_prefix needs pretrained_path, the file that it picks from")
        return self

    @property
    def is_folder(self) -> bool:
        """Whether `backbone` is the address of a folder that says itself what network it holds."""
        return self.backbone.startswith(FOLDERS)

    @property
    def local_path(self) -> str | None:
        """The file or folder of this machine that is read, as it is written; None if there is none."""
        return (
            self.backbone.removeprefix("local-dir:") if self.backbone.startswith("local-dir:") else self.pretrained_path
        )

    @classmethod
    def catalogue(cls, path: str | Path = "params.yaml") -> dict[str, Model]:
        """Read and validate the `models` section alone (what a download needs)."""
        kind = dict[DatasetName, cls]
        try:
            return TypeAdapter(kind).validate_python(read_yaml(path).get("models", {}))
        except ValidationError as error:
            raise ParamsError(str(path), explain(error, kind, prefix=("models",))) from None


class When(Strict):
    """Shell-style patterns that select cells; absent means any."""

    dataset: str = "*"
    backbone: str = "*"
    axes: dict[str, str] = Field({}, description="pattern of each named axis' value; true, false in lower case")


class Override(Strict):
    """Settings for some of the cells; later entries win."""

    when: When
    pretrain: dict[str, Any] = Field({}, description="keys of the section to replace, nested")
    probe: dict[str, Any] = Field({}, description="keys of the section to replace, nested")


class Params(Strict):
    """The whole of params.yaml."""

    based_on: SafeName | None = Field(
        None, description="folder beside this one whose pretrain, probe and overrides hold where this file is silent"
    )
    grid: Grid
    datasets: dict[DatasetName, Dataset]
    models: dict[DatasetName, Model] = Field({}, description="frozen public models that a grid may probe")
    pretrain: Pretrain
    probe: Probe = Probe()
    diagnose: Diagnose = Diagnose()
    density: Density = Density()
    pictures: Pictures = Pictures()
    report: Report = Report()
    overrides: list[Override] = Field([], description="in order; a later one wins")
    shares: list[SafeName] = Field(
        [], description="folders beside this one whose equal pretrainings are used instead of repeated"
    )
