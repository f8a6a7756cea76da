"""What data sets measure: from what is packed, else from their own pictures, else as their publishers say.

Of a set that is not packed yet some pictures are prepared as packing does it, which tells sizes, bytes and time.

Legend: N training images, C channels, H x W canvas px.
"""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from pipeline.catalogue.datasets import Dataset
from pipeline.data.packed import PackedSplit, read_meta
from pipeline.runtime.errors import UserError
from pipeline.sources.images import Picture, prepare
from pipeline.sources.inputs import local_inputs
from pipeline.sources.open import open_source

SAMPLE = 32  # pictures of a set that are looked at; up to twice as many of one whose number is not known before
PHOTO_PX = (500, 375)  # of a public photograph
PUBLISHED = Path(__file__).with_name("published_sets.csv")  # what publishers say; key: class, repository or file, split


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
