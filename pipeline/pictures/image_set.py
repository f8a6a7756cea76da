"""The images of one data set at a backbone's input size, with nearest neighbours and t-SNE per embedding.

Legend: N training images, M test images, Q images on the sheets, k neighbours, D features.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from pipeline.core.distributed.devices import choose_autocast, choose_device
from pipeline.core.seeds import generator
from pipeline.data.loader import open_split, squares
from pipeline.data.packed import ImageBatch, PackedSplit, read_meta
from pipeline.data.strata import members_by_class
from pipeline.models import features
from pipeline.pictures.embedding_map import Map, make_maps
from pipeline.pictures.encoders_shown import Run
from pipeline.pictures.neighbours import Labelled, nearest
from pipeline.pictures.sheet import thumbnails
from pipeline.schema.analysis import Pictures

Split = ImageBatch | PackedSplit


class EmbeddingSpace(NamedTuple):
    """What a description of images makes of the data.

    nearest: (Q, k) int64, training images of each image on the sheets. share_right: same-class share of the k nearest,
    mean over the whole test split. map: of the mapped test images.
    """

    nearest: Tensor
    share_right: float
    map: Map


def reader_of(run: Run) -> features.Reader:
    """Return how the backbone of a run is shown images."""
    device = choose_device(run.shown.device, exact=True)
    model = run.model
    shown = (model["img_size_px"], model["mean"], model["std"], run.shown.batch_size, run.loader.num_workers)
    return features.Reader(*shown, device, choose_autocast(run.shown.precision, device))


class ImageSet:
    """One data set as it is shown to backbones: runs that see it alike share it, and with it raw pixels.

    Attributes:
        size_px: side of what a backbone sees.
        classes: their names.
        train, test: the splits.
        shown: (Q,) int64, test images on the sheets.
        mapped: int64, test images on the map.
        reader: of the first of these runs; raw pixels are those of all.
    """

    def __init__(self, run: Run, settings: Pictures) -> None:
        """Open the data and draw the images that are shown."""
        folder, loading = f"data/{run.dataset}", {"load_px": run.shown.load_px, "memory_gb": run.loader.memory_gb}
        self.settings, self.size_px = settings, run.model["img_size_px"]
        self.classes: list[str] = read_meta(folder)["classes"]
        self.train, self.test = (open_split(folder, name, **loading) for name in ("train", "test"))
        self.shown = shown_images(self.test.labels, settings.num_images, seed=settings.seed)
        order = torch.randperm(len(self.test.labels), generator=generator(settings.seed, "mapped"))
        self.mapped = order[: settings.num_mapped]
        self.reader = reader_of(run)

    def explore(self, describe: Mapping[str, Callable[[Split], Tensor]]) -> dict[str, EmbeddingSpace]:
        """Find neighbours and draw up maps under descriptions: functions from a split to vectors, one an image."""
        tests = {title: function(self.test) for title, function in describe.items()}
        mapped = [test[self.mapped] for test in tests.values()]
        maps = make_maps(mapped, self.test.labels[self.mapped])
        found = {}
        for (title, test), drawn in zip(tests.items(), maps, strict=True):
            near = nearest(test, describe[title](self.train), self.settings.num_neighbours)
            right = self.train.labels[near] == self.test.labels[:, None]
            found[title] = EmbeddingSpace(near[self.shown], float(right.double().mean()), drawn)
        return found

    @cached_property
    def raw_pixels(self) -> dict[str, EmbeddingSpace]:
        """The space of raw pixels, which no backbone has a part in."""
        return self.explore({"raw pixels": lambda split: features.raw_pixels(split, self.reader)})

    @cached_property
    def queries(self) -> ImageBatch:
        """The images on the sheets."""
        return next(squares(self.test, self.shown, len(self.shown), self.size_px))

    def labelled(self, split: Split, indices: Tensor) -> list[Labelled]:
        """Return images of a split as pictures with the names of their classes."""
        images = next(squares(split, indices, len(indices), self.size_px))
        names = [self.classes[label] for label in images.labels.tolist()]
        return [Labelled(*pair) for pair in zip(thumbnails(images, self.size_px), names, strict=True)]


def shown_images(labels: Tensor, num: int, *, seed: int) -> Tensor:
    """Draw images: one of each class in a drawn order of classes, then a second of each, and so on.

    Args:
        labels: (M,) int64.
        num: that are wanted; fewer come back if there are fewer.
        seed: of the drawing.

    Returns:
        (Q,) int64 indices, sorted by class.
    """
    by_class = members_by_class(labels, seed=seed, purpose="shown")
    order = torch.randperm(len(by_class), generator=generator(seed, "classes shown")).tolist()
    ranks = range(max(map(len, by_class)))
    drawn = [int(by_class[c][rank]) for rank in ranks for c in order if rank < len(by_class[c])][:num]
    return torch.tensor(sorted(drawn, key=lambda index: int(labels[index])))
