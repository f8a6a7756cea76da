"""From params.yaml to the cells of its grid and the settings of each; all errors are reported at once.

Settings are checked here once, at the door. What leaves is plain data: `load_params` gives the validated file,
`grid_cells` lists the grid, `resolve` gives the settings of one cell with the overrides applied.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import product
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pipeline.schema import Params, Pretrain, Probe
from pipeline.validation import ParamsError, Strict, did_you_mean, explain, read_yaml


@dataclass(frozen=True)
class Cell:
    """One combination of the grid: one pretraining, one probe, one MLflow run, one table row."""

    grid: str
    dataset: str
    backbone: str
    lamb: float | str
    seed: int

    @property
    def key(self) -> str:
        """Name of the cell; must spell lambda as DVC's `${item.lambda}` does."""
        return f"{self.dataset}--{self.backbone}--lambda{self.lamb}--seed{self.seed}"

    @property
    def folder(self) -> Path:
        """Where the cell's stages write, relative to the repository root."""
        return Path("runs") / self.grid / self.key

    @property
    def configs(self) -> Path:
        """Folder of the cell's resolved settings, relative to the repository root."""
        return Path("runs") / self.grid / "configs" / self.key

    @classmethod
    def of_row(cls, row: dict[str, str]) -> Cell:
        """Return the cell of a row of comparison.csv."""
        return cls(row["grid"], row["dataset"], row["backbone"], row["lambda"], int(row["seed"]))


def grid_cells(params: Params, grid: str) -> list[Cell]:
    """Return every combination of the grid's axes, in the order of params.yaml."""
    axes = params.grid
    return [Cell(grid, *values) for values in product(axes.datasets, axes.backbones, axes.lambdas, axes.seeds)]


def merge(base: dict, change: dict) -> dict:
    """Return `base` with the nested keys of `change` replaced."""
    out = dict(base)
    for key, value in change.items():
        nested = isinstance(value, dict) and isinstance(out.get(key), dict)
        out[key] = merge(out[key], value) if nested else value
    return out


def resolve(params: Params, cell: Cell) -> tuple[Pretrain, Probe]:
    """Settings of one cell: the sections of params.yaml with every matching override applied, in order."""
    pretrain, probe = params.pretrain.model_dump(), params.probe.model_dump()
    for override in params.overrides:
        if fnmatchcase(cell.dataset, override.when.dataset) and fnmatchcase(cell.backbone, override.when.backbone):
            pretrain, probe = merge(pretrain, override.pretrain), merge(probe, override.probe)
    return Pretrain.model_validate(pretrain), Probe.model_validate(probe)


def grid_name(path: str | Path) -> str:
    """Return the name of a parameter file's grid: `default` here, else the folder's (paper/table5 -> table5)."""
    folder = Path(path).resolve().parent
    return "default" if folder == Path.cwd() else folder.name


def reports_folder(grid: str) -> Path:
    """Where a grid's tables lie, relative to the repository root."""
    return Path("reports") if grid == "default" else Path("reports") / grid


def load_params(path: str | Path = "params.yaml") -> Params:
    """Read and validate a parameter file.

    Args:
        path: YAML file with the sections of `Params`.

    Raises:
        ParamsError: naming every broken rule at once: unknown keys, wrong types, values out of range, data sets that
            the catalogue lacks, overrides that do not fit. Backbone names are checked where timm is loaded.
    """
    raw = read_yaml(path)
    problems = []
    try:
        params = Params.model_validate(raw)
    except ValidationError as error:
        problems += explain(error, Params)
    problems += list(_unknown_datasets(raw)) + list(_bad_overrides(raw))
    if not problems:
        problems += _bad_combinations(params)
    if problems:
        raise ParamsError(str(path), problems)
    return params


def _section(raw: dict, name: str, kind: type) -> Any:
    value = raw.get(name)
    return value if isinstance(value, kind) else kind()


def _unknown_datasets(raw: dict) -> Iterator[str]:
    known = [str(name) for name in _section(raw, "datasets", dict)]
    for name in _section(_section(raw, "grid", dict), "datasets", list):
        if isinstance(name, str) and name not in known:
            yield f"unknown data set {name!r} in grid.datasets{did_you_mean(name, known)}; add it under datasets:"


def _bad_overrides(raw: dict) -> Iterator[str]:
    """Check each override on top of its section, so that a typo inside it is named by its own path."""
    for index, override in enumerate(_section(raw, "overrides", list)):
        for name, model in (("pretrain", Pretrain), ("probe", Probe)):
            change = override.get(name) if isinstance(override, dict) else None
            if not isinstance(change, dict):
                continue
            base = _section(raw, name, dict)
            before = set(_problems(model, base, ("overrides", index, name)))
            yield from (p for p in _problems(model, merge(base, change), ("overrides", index, name)) if p not in before)


def _bad_combinations(params: Params) -> list[str]:
    """Check the settings of every cell: overrides that are sound one by one may not be together."""
    found = []
    for cell in grid_cells(params, "any"):
        try:
            resolve(params, cell)
        except ValidationError as error:
            where = f"overrides of {cell.dataset} with {cell.backbone} together give"
            model, section = (Pretrain, "pretrain") if error.title == "Pretrain" else (Probe, "probe")
            found += [f"{where} {problem}" for problem in explain(error, model, prefix=(section,))]
    return list(dict.fromkeys(found))


def _problems(model: type[Strict], value: dict, prefix: tuple) -> list[str]:
    try:
        model.model_validate(value)
    except ValidationError as error:
        return explain(error, model, prefix=prefix)
    return []
