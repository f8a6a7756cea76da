"""The cells of a grid and the settings of each: overrides and axes applied.

A cell is one combination of the grid's axes: one probe, one MLflow run, one table row. Cells whose pretraining is the
same to the last setting (another probe, another target) share it: `identity` says so.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.schema.parameters import Grid, Override, Params
from pipeline.schema.pretrain import Pretrain
from pipeline.schema.probe import Probe


@dataclass(frozen=True)
class Cell:
    """One combination of the grid.

    Attributes:
        dataset: the set that is trained on; of a frozen model the one that is probed.
        backbone: timm name, or the name of a frozen model.
        lamb: lambda as params.yaml spells it; None for a frozen model.
        choices: (axis, value) of the grid's further axes.
        target: the set that is probed, if it is another one.
        frozen: whether `backbone` names a frozen model, which is not trained here.
    """

    grid: str
    dataset: str
    backbone: str
    lamb: float | str | None
    seed: int
    choices: tuple[tuple[str, Any], ...] = ()
    target: str = ""
    frozen: bool = False

    @property
    def key(self) -> str:
        """Name of the cell; must spell values as DVC's `${item.lambda}` does."""
        parts = [self.dataset, self.backbone]
        parts += [] if self.lamb is None else [f"lambda{self.lamb}"]
        parts += [f"seed{self.seed}", *(f"{axis}{_spelled(value)}" for axis, value in self.choices)]
        return "--".join([*parts, f"on-{self.target}"] if self.target else parts)

    @property
    def folder(self) -> Path:
        """Where the cell's stages write, relative to the DVC project."""
        return Path("runs") / self.grid / self.key

    @property
    def configs(self) -> Path:
        """Folder of the cell's resolved settings, relative to the DVC project."""
        return Path("runs") / self.grid / "configs" / self.key

    @property
    def probed_on(self) -> str:
        """The data set of the probe."""
        return self.target or self.dataset

    @property
    def axes(self) -> dict[str, Any]:
        """Every axis with this cell's value: dataset, backbone, lambda, seed, target and the grid's own."""
        fixed = {"dataset": self.dataset, "backbone": self.backbone, "lambda": self.lamb, "seed": self.seed}
        return {**fixed, "target": self.probed_on, **dict(self.choices)}

    @classmethod
    def of_row(cls, row: dict[str, str]) -> Cell:
        """Return the cell of a row of comparison.csv."""
        return cls(row["grid"], row["dataset"], row["backbone"], row["lambda"], int(row["seed"]))


def _spelled(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def grid_cells(params: Params, grid: str) -> list[Cell]:
    """Return every combination of the grid's axes, in the order of params.yaml; frozen models come last."""
    axes = params.grid
    trained = product(axes.datasets, axes.backbones, axes.lambdas, axes.seeds, _choices(axes), axes.targets or [""])
    cells = [Cell(grid, *values) for values in trained]
    cells = [replace(cell, target="") if cell.target == cell.dataset else cell for cell in cells]
    probed = product(axes.targets or axes.datasets, axes.models, axes.seeds, _choices(axes, probe_only=True))
    return cells + [Cell(grid, name, model, None, *rest, frozen=True) for name, model, *rest in probed]


def _choices(grid: Grid, *, probe_only: bool = False) -> Iterator[tuple]:
    """Combine the values of the further axes; those that set the pretraining mean nothing to a frozen model."""
    names = [name for name, axis in grid.axes.items() if axis.probes_alone or not probe_only]
    for values in product(*(grid.axes[name].values for name in names)):
        yield tuple(zip(names, values, strict=True))


def merge(base: dict, change: dict) -> dict:
    """Return `base` with the nested keys of `change` replaced; a section without content changes nothing."""
    out = dict(base)
    for key, value in change.items():
        if value is None and isinstance(out.get(key), dict):
            continue
        nested = isinstance(value, dict) and isinstance(out.get(key), dict)
        out[key] = merge(out[key], value) if nested else value
    return out


class Settings(NamedTuple):
    """The settings of some cells, and as text what of them determines the weights."""

    pretrain: Pretrain
    probe: Probe
    key: str


class Resolver:
    """The settings of every cell of a grid: sections of params.yaml, matching overrides in order, then the axes.

    They are worked out once for all cells that have the same overrides and choices.
    """

    def __init__(self, params: Params) -> None:
        """Take the validated parameter file."""
        self.params = params
        self._base = {"pretrain": params.pretrain.model_dump(), "probe": params.probe.model_dump()}
        self._by_pattern: dict[tuple, Settings] = {}
        self._by_cell: dict[Cell, Settings] = {}

    def pattern(self, cell: Cell) -> tuple:
        """Return what tells a cell's settings from those of others: its overrides and its choices."""
        selected = (index for index, override in enumerate(self.params.overrides) if selects(override, cell))
        # With the types: 1 == 1.0 == True
        return (*selected, *((name, type(value), value) for name, value in cell.choices))

    def __call__(self, cell: Cell) -> Settings:
        """Return the settings of a cell.

        Raises:
            ValidationError: overrides and choices that do not fit together.
        """
        if cell not in self._by_cell:
            pattern = self.pattern(cell)
            if pattern not in self._by_pattern:
                self._by_pattern[pattern] = self._settings(cell)
            self._by_cell[cell] = self._by_pattern[pattern]
        return self._by_cell[cell]

    def _settings(self, cell: Cell) -> Settings:
        settings = self._base
        for override in self.params.overrides:
            if selects(override, cell):
                settings = merge(settings, {"pretrain": override.pretrain, "probe": override.probe})
        for name, value in cell.choices:
            for path in self.params.grid.axes[name].sets:
                settings = merge(settings, _nested(_keys(path), value))
        pretrain, probe = Pretrain.model_validate(settings["pretrain"]), Probe.model_validate(settings["probe"])
        return Settings(pretrain, probe, json.dumps(pretrain.result_key(), sort_keys=True))


def selects(override: Override, cell: Cell) -> bool:
    """Whether an override is for this cell."""
    when, values = override.when, cell.axes
    patterns = {"dataset": when.dataset, "backbone": when.backbone, **when.axes}
    return all(fnmatchcase(_spelled(values.get(axis, "")), pattern) for axis, pattern in patterns.items())


def _keys(path: str) -> list[str]:
    """Split a dotted path; the name of an own objective, objectives.<file>.<Class>, is one key though it has dots."""
    keys = path.split(".")
    if keys[:2] == ["pretrain", "objectives"] and len(keys) > 3:
        keys[2:-1] = [".".join(keys[2:-1])]
    return keys


def _nested(path: list[str], value: Any) -> dict:
    return {path[0]: _nested(path[1:], value) if path[1:] else value}


def identity(resolver: Resolver, cell: Cell) -> str:
    """Return what determines a cell's pretraining, as text: equal text, equal weights."""
    return json.dumps([cell.dataset, cell.backbone, cell.lamb, cell.seed, resolver(cell).key])
