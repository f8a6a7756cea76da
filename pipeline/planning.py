"""What a pipeline's grid holds and what of it is done, found out without running or writing anything.

Legend: N training images, V views, C channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipeline import speed
from pipeline.catalogue import Dataset
from pipeline.datasets import read_meta
from pipeline.errors import UserError
from pipeline.params import Cell, grid_cells, grid_name, load_params, resolve
from pipeline.schema import Params, Pretrain, Probe
from pipeline.sources import open_source


class SetFacts(NamedTuple):
    """What a data set measures. num_bytes: on disk, or at most if it is not packed yet."""

    num_train: int
    num_test: int
    num_classes: int
    channels: int
    width_px: tuple[int, int]
    height_px: tuple[int, int]
    num_bytes: int
    is_packed: bool

    def canvas(self, load_px: int) -> tuple[int, int, int]:
        """Return (C, H, W) of the images in memory (pipeline/datasets.py)."""
        (low_w, high_w), (low_h, high_h) = self.width_px, self.height_px
        native = low_w == high_w and low_h == high_h and max(high_w, high_h) <= load_px
        return (self.channels, *((high_h, high_w) if native else (load_px, load_px)))


@dataclass(frozen=True)
class Task:
    """One cell with its settings and what is known before it runs; facts is None until the set is downloaded."""

    cell: Cell
    pretrain: Pretrain
    probe: Probe
    facts: SetFacts | None
    pretrain_done: bool
    probe_done: bool

    @property
    def done(self) -> bool:
        """Whether both results are on disk."""
        return self.pretrain_done and self.probe_done

    @property
    def num_views(self) -> int:
        """V."""
        return self.pretrain.views.num_global + self.pretrain.views.num_local

    @property
    def num_steps(self) -> int | None:
        """Steps of the pretraining; None while N is unknown."""
        if self.facts is None:
            return None
        return self.pretrain.epochs * (self.facts.num_train // self.pretrain.batch_size)

    @property
    def images_seen(self) -> int | None:
        """Training images, each as often as it is seen; None while N is unknown."""
        return None if self.num_steps is None else self.num_steps * self.pretrain.batch_size

    @property
    def load(self) -> speed.Load:
        """What decides its speed; for an unknown set colour images of load_px are assumed."""
        load_px = self.pretrain.load_px
        canvas = self.facts.canvas(load_px) if self.facts else (3, load_px, load_px)
        return speed.Load.of(self.cell.backbone, canvas, self.pretrain.model_dump(mode="json"), self.probe.batch_size)


@dataclass(frozen=True)
class Pipeline:
    """One parameter file with its tasks."""

    path: Path
    grid: str
    params: Params
    tasks: list[Task]

    def entries(self) -> dict[str, Dataset]:
        """Return the catalogue entries of the sets that the grid uses."""
        return {name: self.params.datasets[name] for name in self.params.grid.datasets}


def params_files(pipeline: str | Path) -> list[Path]:
    """Return the parameter files of a pipeline.

    Args:
        pipeline: a params.yaml, the dvc.yaml beside one, a folder that holds one, or a folder of such folders.

    Raises:
        UserError: if there is none.
    """
    path = Path(pipeline)
    if path.is_dir():
        found = [path / "params.yaml"] if (path / "params.yaml").is_file() else sorted(path.glob("*/params.yaml"))
    else:
        beside = path.with_name("params.yaml") if path.name == "dvc.yaml" else path
        found = [beside] if beside.is_file() else []
    if not found:
        raise UserError(f"there is no pipeline at {path}; give a params.yaml, a dvc.yaml or a folder that holds them")
    return found


def read_pipeline(path: Path) -> Pipeline:
    """Read a parameter file and look up what is on disk.

    Raises:
        ParamsError: naming every broken rule.
    """
    params, grid = load_params(path), grid_name(path)
    facts = {name: set_facts(name, params.datasets[name]) for name in params.grid.datasets}
    tasks = []
    for cell in grid_cells(params, grid):
        done = [(cell.folder / stage / "metrics.json").is_file() for stage in ("pretrain", "probe")]
        tasks.append(Task(cell, *resolve(params, cell), facts[cell.dataset], *done))
    return Pipeline(path, grid, params, tasks)


def set_facts(name: str, entry: Dataset) -> SetFacts | None:
    """Return the sizes of a data set: of data/<name>, else of what this repository or scikit-learn holds, else None."""
    folder = Path("data") / name
    try:
        meta = read_meta(folder)
    except FileNotFoundError:
        return _facts_of_source(name, entry) if entry.source in ("bundled", "sklearn") else None
    counts = [meta["splits"][split]["num_images"] for split in ("train", "test")]
    sizes = tuple(meta["width_px"]), tuple(meta["height_px"])
    num_bytes = sum(file.stat().st_size for file in folder.iterdir())
    return SetFacts(*counts, len(meta["classes"]), meta["channels"], *sizes, num_bytes, is_packed=True)


def _facts_of_source(name: str, entry: Dataset) -> SetFacts:
    source = open_source(name, entry, Path())
    shapes = {split: [np.shape(picture.content) for picture in found] for split, found in source.splits.items()}
    every = [shape for split in shapes.values() for shape in split]
    heights, widths = ([shape[axis] for shape in every] for axis in (0, 1))
    channels = max(shape[2] if len(shape) == 3 else 1 for shape in every)
    counts = [len(shapes[split]) for split in ("train", "test")]
    sizes = (min(widths), max(widths)), (min(heights), max(heights))
    num_bytes = sum(int(np.prod(shape)) for shape in every)
    return SetFacts(*counts, len(source.classes), 1 if channels == 1 else 3, *sizes, num_bytes, is_packed=False)
