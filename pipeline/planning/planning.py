"""Cells of pipelines and their state, without running or writing anything.

Of a set that is not packed yet some pictures are prepared as packing does it, which tells sizes, bytes and time.

Legend: N training images, C channels, H x W canvas px.
"""

from __future__ import annotations

import io
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from pipeline.catalogue.datasets import Dataset
from pipeline.data.packed import PackedSplit, read_meta
from pipeline.models import backbones
from pipeline.planning.speed import Load
from pipeline.runtime.errors import UserError
from pipeline.runtime.project import REPORTS, grid_name
from pipeline.settings.cells import Cell, resolve
from pipeline.settings.grid import open_listing
from pipeline.settings.params import read_sections
from pipeline.settings.schema import Model, Params, Pretrain, Probe
from pipeline.sources.images import Picture, prepare
from pipeline.sources.inputs import local_inputs
from pipeline.sources.open import open_source

SAMPLE = 32  # pictures of a set that are looked at; up to twice as many of one whose number is not known before
PHOTO_PX = (500, 375)


class SetFacts(NamedTuple):
    """What a data set measures.

    size_px: (H, W) if all its pictures share them. num_bytes: on disk once it is packed. files: some of its pictures,
    encoded as they are packed. pack_s: seconds a thread takes to pack all of it; 0 where that is done.
    """

    num_train: int
    num_test: int
    num_classes: int
    channels: int
    size_px: tuple[int, int] | None
    num_bytes: int
    files: list[bytes]
    pack_s: float = 0.0

    @property
    def is_packed(self) -> bool:
        """Whether it lies in data/."""
        return self.pack_s == 0

    def canvas(self, load_px: int) -> tuple[int, int, int]:
        """Return (C, H, W) of the images in memory (pipeline/data/loader.py)."""
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
    """One parameter file with its tasks; none where it trains nothing, as those of the synthetic figures.

    Attributes:
        facts: of every set that it reads; None: unknown until it is downloaded.
        problems: why a set cannot be packed.
        is_reported: whether the report is there that its last stage writes.
    """

    path: Path
    grid: str
    params: Params | None = None
    tasks: list[Task] = field(default_factory=list)
    facts: dict[str, SetFacts | None] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    is_reported: bool = False

    @property
    def scored(self) -> dict[str, list[str]]:
        """For each data set that is trained on, those whose images its picked run scores."""
        sets = self.params.density.sets if self.params and self.grid == "default" else []
        return {name: list(dict.fromkeys([name, *sets])) for name in self.params.grid.datasets} if sets else {}

    def of(self, dataset: str) -> list[Task]:
        """Return the cells that are trained on a data set."""
        return [task for task in self.tasks if task.cell.dataset == dataset]


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
        return Pipeline(path, grid_name(path), is_reported=(REPORTS / f"{path.parent.name}.md").is_file())
    listing = open_listing(path)
    params, cells = listing.params, listing.cells
    found = Pipeline(path, listing.grid, params)
    read = {name for cell in cells for name in (cell.dataset, cell.probed_on)}
    read.update(name for scored in found.scored.values() for name in scored)
    for name in (name for name in params.datasets if name in read):
        folder = Path("data") if name in params.grid.datasets or not found.scored else Path("data/foreign")
        try:
            found.facts[name] = set_facts(folder / name, params.datasets[name])
        except UserError as error:
            found.facts[name] = None
            found.problems.append(str(error))
    found.tasks.extend(
        Task(
            cell,
            listing.owners.get(cell),
            *resolve(params, cell),
            params.models[cell.backbone] if cell.frozen else None,
            found.facts[cell.dataset],
            found.facts[cell.probed_on],
            pretrain_done=Path(listing.weights(cell)).is_file(),
            probe_done=(cell.folder / "probe" / "metrics.json").is_file(),
        )
        for cell in cells
    )
    return found


def set_facts(folder: Path, entry: Dataset) -> SetFacts | None:
    """Return what a set measures, by what is in its folder, else by its own pictures, else as its publisher says.

    Raises:
        UserError: pictures of this machine that cannot be packed.
    """
    try:
        meta = read_meta(folder)
    except FileNotFoundError:
        own = local_inputs(folder.name, entry)
        is_archive = entry.source == "folder" and any(path.is_file() for path in own)
        at_hand = entry.source == "sklearn" or (own and not is_archive and not getattr(entry, "by_hand", None))
        return _looked_at(folder.name, entry) if at_hand else _published(entry)
    counts = [meta["splits"][split]["num_images"] for split in ("train", "test")]
    num_bytes = sum(file.stat().st_size for file in folder.iterdir())
    size_px = _common_size(meta["height_px"], meta["width_px"])
    images = PackedSplit(folder, "train", load_px=1)
    files = [images.encoded(index) for index in range(0, len(images), -(-len(images) // SAMPLE))]
    return SetFacts(*counts, len(meta["classes"]), meta["channels"], size_px, num_bytes, files)


def _looked_at(name: str, entry: Dataset) -> SetFacts:
    source = open_source(name, entry, Path())
    counts, samples = zip(*(_sampled(source.splits[split]) for split in ("train", "test")), strict=True)
    return _facts(f"datasets.{name}", [*samples[0], *samples[1]], counts, len(source.classes))


def _sampled(pictures: Iterable[Picture]) -> tuple[int, list[Picture]]:
    """Count pictures and keep at least SAMPLE of them, if there are so many, at equal distances."""
    kept, step, count = [], 1, 0
    for index, picture in enumerate(pictures):
        count = index + 1
        if index % step == 0:
            kept.append(picture)
        if len(kept) == 2 * SAMPLE:
            kept, step = kept[::2], 2 * step
    return count, kept


def _published(entry: Dataset) -> SetFacts | None:
    """Return what the publisher says, with a picture of noise for the time that packing takes."""
    if entry.source == "torchvision":
        key = " ".join(map(str, [entry.dataset, *entry.train.values()]))
    elif entry.source == "huggingface":
        key = f"{entry.repo} {entry.splits.train}"
    else:
        key = f"{(entry.url or '').rpartition('/')[2]} {getattr(entry, 'images', '')}"
    if key not in PUBLISHED_SETS:
        return None
    num_train, num_test, num_classes, channels, side_px, megabytes = PUBLISHED_SETS[key]
    picture = Image.effect_noise((side_px, side_px) if side_px else PHOTO_PX, 32)
    picture = picture if channels == 1 else picture.convert("RGB")
    if not side_px:  # photographs are published, and kept, as JPEG
        file = io.BytesIO()
        picture.save(file, "jpeg", quality=90)
        picture = file.getvalue()
    found = _facts(key, [Picture(picture, 0, key)], (num_train, num_test), num_classes)
    return found._replace(size_px=found.size_px if side_px else None, num_bytes=int(megabytes * 1e6))


def _facts(where: str, sample: list[Picture], counts: tuple[int, int], num_classes: int) -> SetFacts:
    """Prepare some pictures of a set with the clock and infer all of it."""
    prepared, started = [], time.perf_counter()
    for picture in sample:
        try:
            prepared.append(prepare(picture))
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise UserError(f"{where}: {picture.where} cannot be used: {error}; repair it or take it out") from None
    each = sum(counts) / len(prepared)
    pack_s, num_bytes = each * (time.perf_counter() - started), each * sum(len(one.file) for one in prepared)
    size_px = _common_size([one.height for one in prepared], [one.width for one in prepared])
    channels = 1 if all(one.is_grey for one in prepared) else 3
    return SetFacts(*counts, num_classes, channels, size_px, int(num_bytes), [one.file for one in prepared], pack_s)


def _common_size(heights: list[int], widths: list[int]) -> tuple[int, int] | None:
    return (max(heights), max(widths)) if min(heights) == max(heights) and min(widths) == max(widths) else None
