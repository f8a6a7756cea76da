"""What pipelines hold and what of it is done, found out without running or writing anything.

Legend: N training images, C channels, H x W canvas px.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipeline import backbones
from pipeline.catalogue import Dataset
from pipeline.cells import Cell, resolve
from pipeline.encoded import read_meta
from pipeline.errors import UserError
from pipeline.listing import open_listing
from pipeline.params import grid_name, read_sections
from pipeline.project import REPORTS
from pipeline.schema import Model, Pretrain, Probe
from pipeline.sources import open_source
from pipeline.speed import Load


class SetFacts(NamedTuple):
    """What a data set measures.

    size_px: (H, W) if all its pictures share them. num_bytes: on disk; of a set that is not packed yet, its download or
    its pixels.
    """

    num_train: int
    num_test: int
    num_classes: int
    channels: int
    size_px: tuple[int, int] | None
    num_bytes: int
    is_packed: bool

    def canvas(self, load_px: int) -> tuple[int, int, int]:
        """Return (C, H, W) of the images in memory (pipeline/datasets.py)."""
        native = self.size_px if self.size_px and max(self.size_px) <= load_px else None
        return (self.channels, *(native or (load_px, load_px)))


# What public sets measure, as their publishers say, until they are packed: training and test images, classes, channels,
# side (None: it varies), megabytes to download. Keys: class or repository and the arguments that select the split.
PUBLISHED_SETS = {
    "FashionMNIST True": (60_000, 10_000, 10, 1, 28, 31),
    "CIFAR10 True": (50_000, 10_000, 10, 3, 32, 170),
    "CIFAR100 True": (50_000, 10_000, 100, 3, 32, 169),
    "Flowers102 train": (1_020, 6_149, 102, 3, None, 345),
    "Food101 train": (75_750, 25_250, 101, 3, None, 5_000),
    "Imagenette train 320px": (9_469, 3_925, 10, 3, None, 342),
    "ImageNet train": (1_281_167, 50_000, 1_000, 3, None, 145_000),
    "DTD train 1": (1_880, 1_880, 47, 3, None, 597),
    "FGVCAircraft trainval variant": (6_667, 3_333, 100, 3, None, 2_800),
    "OxfordIIITPet trainval": (3_680, 3_669, 37, 3, None, 800),
    "clane9/imagenet-100 train": (126_689, 5_000, 100, 3, None, 8_000),
    "tanganke/stanford_cars train": (8_144, 8_041, 196, 3, None, 2_000),
    "Galaxy10_DECals.h5 images": (14_189, 3_547, 10, 3, 256, 2_500),  # 17,736, of which test_frac are held out
}


@dataclass(frozen=True)
class Task:
    """One cell with its settings and what is known before it runs.

    Attributes:
        owner: the cell that trains its weights; None for a frozen model.
        model: catalogue entry of a frozen model.
        train_set: facts of the set that is trained on; None: unknown until it is downloaded.
        probe_set: facts of the set that is probed.
        pretrain_done: whether the weights are on disk, trained or fetched.
    """

    cell: Cell
    owner: Cell | None
    pretrain: Pretrain
    probe: Probe
    model: Model | None
    train_set: SetFacts | None
    probe_set: SetFacts | None
    pretrain_done: bool
    probe_done: bool

    @property
    def done(self) -> bool:
        """Whether both results are on disk."""
        return self.pretrain_done and self.probe_done

    @property
    def trains(self) -> bool:
        """Whether its own grid trains its weights, and for this cell first."""
        return self.owner == self.cell

    @property
    def num_steps(self) -> int | None:
        """Steps of the pretraining; None while N is unknown."""
        if self.train_set is None:
            return None
        return self.pretrain.epochs * (self.train_set.num_train // self.pretrain.batch_size)

    @property
    def images_seen(self) -> int | None:
        """Training images, each as often as it is seen; None while N is unknown."""
        return None if self.num_steps is None else self.num_steps * self.pretrain.batch_size

    @property
    def load(self) -> Load:
        """What decides its speed; for an unknown set colour images of load_px are assumed."""
        load_px = self.pretrain.load_px
        canvas = self.train_set.canvas(load_px) if self.train_set else (3, load_px, load_px)
        settings = self.pretrain.model_dump(mode="json")
        if self.model is None:
            return Load.of(self.cell.backbone, settings, canvas)
        settings["backbone"] = {"patch_size": None, "drop_path_rate": 0.0, "kwargs": self.model.kwargs}
        size_px = self.model.img_size or backbones.published(self.model.backbone).size_px
        settings["views"] |= {"num_global": 1, "num_local": 0, "global_px": size_px}
        return Load.of(self.model.backbone, settings, canvas)


@dataclass(frozen=True)
class Pipeline:
    """One parameter file with its tasks; none where it trains nothing, as those of the synthetic figures."""

    path: Path
    grid: str
    tasks: list[Task] = field(default_factory=list)
    datasets: dict[str, Dataset] = field(default_factory=dict)

    @property
    def report(self) -> Path:
        """What its last stage writes."""
        return REPORTS / f"{self.path.parent.name}.md"


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
    if "grid" not in read_sections(path):
        return Pipeline(path, grid_name(path))
    listing = open_listing(path)
    params, cells = listing.params, listing.cells
    names = {name for cell in cells for name in (cell.dataset, cell.probed_on)}
    entries = {name: params.datasets[name] for name in params.datasets if name in names}
    facts = {name: set_facts(name, entry) for name, entry in entries.items()}
    tasks = [
        Task(
            cell,
            listing.owners.get(cell),
            *resolve(params, cell),
            params.models[cell.backbone] if cell.frozen else None,
            facts[cell.dataset],
            facts[cell.probed_on],
            pretrain_done=Path(listing.weights(cell)).is_file(),
            probe_done=(cell.folder / "probe" / "metrics.json").is_file(),
        )
        for cell in cells
    ]
    return Pipeline(path, listing.grid, tasks, entries)


def set_facts(name: str, entry: Dataset) -> SetFacts | None:
    """Return what a set measures: data/<name>, what this repository or scikit-learn holds, or its publisher says."""
    folder = Path("data") / name
    try:
        meta = read_meta(folder)
    except FileNotFoundError:
        return _facts_of_source(name, entry) if entry.source in ("bundled", "sklearn") else _published_facts(entry)
    counts = [meta["splits"][split]["num_images"] for split in ("train", "test")]
    num_bytes = sum(file.stat().st_size for file in folder.iterdir())
    size_px = _common_size(meta["height_px"], meta["width_px"])
    return SetFacts(*counts, len(meta["classes"]), meta["channels"], size_px, num_bytes, is_packed=True)


def _facts_of_source(name: str, entry: Dataset) -> SetFacts:
    splits = open_source(name, entry, Path())
    shapes = {split: [np.shape(picture.content) for picture in found] for split, found in splits.splits.items()}
    every = [shape for split in shapes.values() for shape in split]
    channels = max(shape[2] if len(shape) == 3 else 1 for shape in every)
    num_bytes = sum(int(np.prod(shape)) for shape in every)
    counts = [len(shapes[split]) for split in ("train", "test")]
    size_px = _common_size(*([shape[axis] for shape in every] for axis in (0, 1)))
    return SetFacts(*counts, len(splits.classes), 1 if channels == 1 else 3, size_px, num_bytes, is_packed=False)


def _published_facts(entry: Dataset) -> SetFacts | None:
    if entry.source == "torchvision":
        key = " ".join(map(str, [entry.dataset, *entry.train.values()]))
    elif entry.source == "huggingface":
        key = f"{entry.repo} {entry.splits.train}"
    else:
        key = f"{(entry.url or '').rpartition('/')[2]} {getattr(entry, 'images', '')}"
    if key not in PUBLISHED_SETS:
        return None
    *counts, side_px, megabytes = PUBLISHED_SETS[key]
    return SetFacts(*counts, (side_px, side_px) if side_px else None, int(megabytes * 1e6), is_packed=False)


def _common_size(heights: list[int], widths: list[int]) -> tuple[int, int] | None:
    return (max(heights), max(widths)) if min(heights) == max(heights) and min(widths) == max(widths) else None
