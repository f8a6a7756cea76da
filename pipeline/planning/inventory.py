"""What pipelines hold and what of it is on disk, without running or writing anything.

Of a set that is not packed yet some pictures are prepared as packing does it, which tells sizes, bytes and time.

Legend: N training images, C channels, H x W canvas px.
"""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from pipeline.catalogue.datasets import Dataset
from pipeline.data.packed import PackedSplit, read_meta
from pipeline.models import backbones
from pipeline.runtime.errors import ResultError, UserError
from pipeline.runtime.files import read_json
from pipeline.runtime.project import grid_name, remake, repro_command
from pipeline.schema.parameters import Model, Params, Pretrain, Probe
from pipeline.schema.pretrain import Backbone
from pipeline.settings.cells import Cell
from pipeline.settings.grid import open_listing
from pipeline.settings.params import read_sections
from pipeline.sources.images import Picture, prepare
from pipeline.sources.inputs import local_inputs
from pipeline.sources.open import open_source
from pipeline.zoo.timm_folder import read_folder

SAMPLE = 32  # pictures of a set that are looked at; up to twice as many of one whose number is not known before
PHOTO_PX = (500, 375)  # of a public photograph
PUBLISHED = Path(__file__).with_name("published_sets.csv")  # what publishers say; key: class, repository or file, split
SHAPE: dict[str, Any] = dict.fromkeys(("backbone", "batch_size", "precision", "device", "channels_last"), True)
SHAPE |= dict.fromkeys(("layout", "projector", "predictor", "swa", "objective", "objectives"), True)
SHAPE |= {"views": {"num_global", "num_local", "global_px", "local_px"}, "sigreg": {"statistic", "num_slices"}}


class SetFacts(NamedTuple):
    """What a data set measures.

    size_px: (H, W) if all its pictures share them. num_bytes: on disk once it is packed. image_s: seconds that a thread
    takes to decode and check an image.
    """

    num_train: int
    num_test: int
    num_classes: int
    channels: int
    size_px: tuple[int, int] | None
    num_bytes: int
    image_s: float
    is_packed: bool

    def is_whole(self, load_px: int) -> bool:
        """Whether its pictures are read whole; of others workers cut views (pipeline/data/packed.py)."""
        return bool(self.size_px) and max(self.size_px) <= load_px

    def canvas(self, load_px: int) -> tuple[int, int, int]:
        """Return (C, H, W) of images that take about as long to make views of."""
        return (self.channels, *(self.size_px if self.is_whole(load_px) else (load_px, load_px)))


@dataclass(frozen=True)
class Task:
    """One cell. owner: who trains its weights, None for a frozen model; facts None: unknown until downloaded."""

    cell: Cell
    owner: Cell | None
    backbone: str
    pretrain: Pretrain
    probe: Probe
    model: Model | None
    train_set: SetFacts | None
    probe_set: SetFacts | None
    pretrain_done: bool
    probe_done: bool
    trained_s: float | None

    @property
    def done(self) -> bool:
        """Whether both results are on disk."""
        return self.pretrain_done and self.probe_done

    @property
    def num_steps(self) -> int | None:
        """Steps of the pretraining, without partial batches; None while N is unknown."""
        if self.train_set is None:
            return None
        return self.pretrain.epochs * (self.train_set.num_train // self.pretrain.batch_size)

    @property
    def shape(self) -> str:
        """Key of what decides the time of a step."""
        return f"{self.backbone} {self.pretrain.model_dump_json(include=SHAPE)}"

    @property
    def fit_key(self) -> tuple:
        """Key of what decides the time of a frozen probe on a feature."""
        return self.probe_set, self.pretrain.device, self.probe.model_dump_json(include={"linear", "knn", "few_shot"})

    @property
    def canvas(self) -> tuple[int, int, int]:
        """(C, H, W) of the training images; colour is assumed of an unknown set."""
        load_px = self.pretrain.load_px
        return self.train_set.canvas(load_px) if self.train_set else (3, load_px, load_px)


@dataclass(frozen=True)
class Pipeline:
    """One parameter file; without tasks, as those of synthetic figures, it trains nothing."""

    path: Path
    grid: str
    params: Params | None = None
    tasks: list[Task] = field(default_factory=list)
    facts: dict[str, SetFacts | None] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    @property
    def scored(self) -> dict[str, list[str]]:
        """For each data set that is trained on, those whose images its picked run scores."""
        sets = self.params.density.sets if self.params and self.grid == "default" else []
        return {name: list(dict.fromkeys([name, *sets])) for name in self.params.grid.datasets} if sets else {}


def params_files(pipeline: str | Path) -> list[Path]:
    """Return the parameter files at a params.yaml, the dvc.yaml beside one, a folder of one, or a folder of such."""
    path = Path(pipeline)
    if path.is_dir():
        found = [path / "params.yaml"] if (path / "params.yaml").is_file() else sorted(path.glob("*/params.yaml"))
    else:
        found = [
            file for file in [path.with_name("params.yaml") if path.name == "dvc.yaml" else path] if file.is_file()
        ]
    if not found:
        raise UserError(f"there is no pipeline at {path}; give a params.yaml, a dvc.yaml or a folder that holds them")
    return found


def read_pipeline(path: Path) -> Pipeline:
    """Read a parameter file and look up what is on disk; broken rules raise ParamsError."""
    if "grid" not in read_sections(path):
        return Pipeline(path, grid_name(path))
    listing = open_listing(path)
    found = Pipeline(path, listing.grid, listing.params)
    read = {name for cell in listing.cells for name in (cell.dataset, cell.probed_on)}
    read.update(name for scored in found.scored.values() for name in scored)
    for name, entry in listing.params.datasets.items():
        if name not in read:
            continue
        foreign = found.scored and name not in listing.params.grid.datasets
        try:
            found.facts[name] = set_facts(Path("data/foreign" if foreign else "data") / name, entry)
        except UserError as error:
            found.facts[name] = None
            found.problems.append(str(error))
    for cell in listing.cells:
        (pretrain, probe, _), weights = listing.settings(cell), Path(listing.weights(cell))
        model = listing.params.models[cell.backbone] if cell.frozen else None
        backbone = cell.backbone
        if model:
            try:
                backbone, pretrain = _shown_to(cell.backbone, model, pretrain)
            except UserError as error:
                found.problems.append(str(error))
                continue
        task = Task(
            cell,
            listing.owners.get(cell),
            backbone,
            pretrain,
            probe,
            model,
            found.facts[cell.dataset],
            found.facts[cell.probed_on],
            weights.is_file(),
            (cell.folder / "probe" / "metrics.json").is_file(),
            _trained_s(weights.with_name("provenance.json"), found),
        )
        found.tasks.append(task)
    return found


def _trained_s(provenance: Path, found: Pipeline) -> float | None:
    """Return what a training took, None if nothing says it; a broken file is a problem of the pipeline."""
    try:
        return read_json(provenance).get("wall_s") if provenance.is_file() else None
    except ResultError as error:
        found.problems.append(str(error).replace("dvc repro", repro_command(found.path)))
        return None


def _shown_to(name: str, model: Model, pretrain: Pretrain) -> tuple[str, Pretrain]:
    """Return timm's name of a frozen model, and settings with the one view that it sees.

    Raises:
        UserError: a folder that is not here.
    """
    backbone, saved, told = model.backbone, {}, Path("models") / name / "model.json"
    if not model.is_folder:
        size_px = model.img_size or backbones.published(backbone).size_px
    elif told.is_file():
        fetched = read_json(told)
        backbone, saved, size_px = fetched["backbone"], fetched["kwargs"], fetched["size_px"]
    elif model.local_path:
        folder = read_folder(backbone)
        backbone, saved, size_px = folder.architecture, folder.arguments, model.img_size or folder.told.size_px
    else:
        raise UserError(f"models.{name}: {backbone} is unknown until it is fetched; run: {remake(told.parent)}")
    views = pretrain.views.model_copy(update={"num_global": 1, "num_local": 0, "global_px": size_px})
    network = Backbone().model_copy(update={"kwargs": saved | model.kwargs})  # a folder may say lists
    return backbone, pretrain.model_copy(update={"views": views, "backbone": network})


def set_facts(folder: Path, entry: Dataset) -> SetFacts | None:
    """Return what a set measures, by what is packed, else by its own pictures, else as its publisher says.

    Raises:
        UserError: pictures of this machine that cannot be packed.
    """
    name = f"datasets.{folder.name}"
    if (folder / "meta.json").is_file():
        meta, images = read_meta(folder), PackedSplit(folder, "train", load_px=1)
        chosen = range(0, len(images), -(-len(images) // SAMPLE))
        sample = [Picture(images.encoded(index), 0, str(index)) for index in chosen]
        counts = [meta["splits"][split]["num_images"] for split in ("train", "test")]
        sizes = meta["height_px"], meta["width_px"]
        size_px = tuple(map(max, sizes)) if all(min(side) == max(side) for side in sizes) else None
        found = _facts(name, sample, counts, len(meta["classes"]))
        return found._replace(is_packed=True, size_px=size_px, channels=meta["channels"])
    own = local_inputs(folder.name, entry)
    is_archive = entry.source == "folder" and any(path.is_file() for path in own)
    if entry.source != "sklearn" and (not own or is_archive or getattr(entry, "by_hand", None)):
        return _published(entry)
    source, counts, sample = open_source(folder.name, entry, Path()), [], []
    for split in ("train", "test"):
        count, kept = _sampled(source.splits[split])
        counts.append(count)
        sample += kept
    return _facts(name, sample, counts, len(source.classes))


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
    with PUBLISHED.open(encoding="utf-8", newline="") as file:
        rows = {row["key"]: row for row in csv.DictReader(file)}
    if key not in rows:
        return None
    told = {name: int(value or 0) for name, value in rows[key].items() if name != "key"}
    side_px = told["side_px"]
    picture = Image.effect_noise((side_px, side_px) if side_px else PHOTO_PX, 32)
    picture = picture if told["channels"] == 1 else picture.convert("RGB")
    if not side_px:  # photographs are published, and kept, as JPEG
        file = io.BytesIO()
        picture.save(file, "jpeg", quality=90)
        picture = file.getvalue()
    found = _facts(key, [Picture(picture, 0, key)], [told["num_train"], told["num_test"]], told["num_classes"])
    return found._replace(size_px=found.size_px if side_px else None, num_bytes=told["megabytes"] * 10**6)


def _facts(where: str, sample: list[Picture], counts: list[int], num_classes: int) -> SetFacts:
    """Prepare some pictures of a set with the clock and infer all of it."""
    prepared, started = [], time.perf_counter()
    for picture in sample:
        try:
            prepared.append(prepare(picture))
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise UserError(f"{where}: {picture.where} cannot be used: {error}; repair it or take it out") from None
    image_s = (time.perf_counter() - started) / len(prepared)
    sizes = {(one.height, one.width) for one in prepared}
    size_px = sizes.pop() if len(sizes) == 1 else None
    num_bytes = sum(counts) * sum(len(one.file) for one in prepared) // len(prepared)
    channels = 1 if all(one.is_grey for one in prepared) else 3
    return SetFacts(*counts, num_classes, channels, size_px, num_bytes, image_s, is_packed=False)
