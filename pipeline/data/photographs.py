"""Views cut from photographs at their own resolution: a picture is decoded once, all its views are cut and resized.

Legend: B images of a batch, V views of one size, C channels, s their side. A box is (top, left, height, width) in px.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pipeline.core.seeds import generator
from pipeline.data.packed import MODES, in_mode
from pipeline.data.views.crops import centre_boxes
from pipeline.data.views.multicrop import Multicrop


class Cut(Protocol):
    """What is cut of the photographs of a batch: groups of views, each of one side."""

    @property
    def groups(self) -> Sequence[tuple[int, int]]:
        """The number V of views of each group, and their side s."""

    def boxes(self, sizes_px: Tensor, number: int) -> list[Tensor]:
        """Return the boxes (V, B, 4) of each group, for pictures of (height, width) (B, 2) in batch `number`."""


@dataclass(frozen=True)
class CentreCut:
    """The largest centred square, which probes see: as torchvision's Resize(s) and CenterCrop(s) show it."""

    size_px: int

    @property
    def groups(self) -> list[tuple[int, int]]:
        """One group of one view."""
        return [(1, self.size_px)]

    def boxes(self, sizes_px: Tensor, number: int) -> list[Tensor]:
        """Return the same boxes whatever the batch."""
        return [centre_boxes(*sizes_px.unbind(1), (1.0, 1.0))[None]]


@dataclass(frozen=True)
class RandomCut:
    """Random resized crops: the global and local views of `Multicrop`, drawn from (seed, purpose, step) alone.

    Attributes:
        views: says how many views of which size and scale.
        seed, purpose: of the draws.
        step: number of the first batch.
        first, of: as for `Multicrop`, where a process has a part of every batch.
    """

    views: Multicrop
    seed: int
    purpose: str
    step: int = 0
    first: int = 0
    of: int | None = None

    @property
    def groups(self) -> list[tuple[int, int]]:
        """Global and local."""
        return [(group.num, group.size_px) for group in self.views.groups]

    def boxes(self, sizes_px: Tensor, number: int) -> list[Tensor]:
        """Return the boxes of each group of views."""
        draws = generator(self.seed, self.purpose, self.step + number)
        return self.views.boxes(sizes_px, generator=draws, first=self.first, of=self.of)


def crop_shapes(cut: Cut, num_images: int, channels: int) -> list[tuple[int, ...]]:
    """Return the shape (V, B, s, s, C) of the crops of each group, as pictures have them."""
    return [(num, num_images, side, side, channels) for num, side in cut.groups]


def cut_photographs(
    files: Sequence[bytes], channels: int, cut: Cut, number: int, out: Sequence[Tensor] | None = None
) -> list[Tensor]:
    """Decode the pictures of a batch and cut their views, resized with the antialiased bilinear filter.

    A JPEG is decoded at 1/2, 1/4 or 1/8 of its size where the smallest of its boxes still has all pixels of its view.

    Args:
        files: B PNG or JPEG files.
        channels: 1 or 3.
        cut: says which boxes.
        number: of the batch.
        out: uint8 of `crop_shapes`, to be written; None: new memory.

    Returns:
        (V, B, C, s, s) uint8 of each group of views.
    """
    images = [Image.open(io.BytesIO(file)) for file in files]
    sizes_px = torch.tensor([(image.height, image.width) for image in images], dtype=torch.float32)
    groups = [boxes.numpy() for boxes in cut.boxes(sizes_px, number)]
    sides_px = [side for _, side in cut.groups]
    if out is None:
        out = [torch.empty(shape, dtype=torch.uint8) for shape in crop_shapes(cut, len(files), channels)]
    shown = [views.numpy() for views in out]
    for place, image in enumerate(images):
        boxes = [of_views[:, place] for of_views in groups]
        picture, scale = _decoded(image, MODES[channels], boxes, sides_px)
        for of_views, views, side in zip(boxes, shown, sides_px, strict=True):
            for box, view in zip(of_views, views[:, place], strict=True):
                view[...] = np.asarray(_resized(picture, box, scale, side)).reshape(view.shape)
        images[place] = None  # so that one picture at a time is decoded
    return [views.movedim(4, 2) for views in out]


def _decoded(
    image: Image.Image, mode: str, boxes: Sequence[np.ndarray], sides_px: Sequence[int]
) -> tuple[Image.Image, tuple[float, float]]:
    """Decode a picture; return it with its (height, width) as fractions of the file's."""
    width, height = image.size
    least = max(side / of_views[:, 2:].min() for of_views, side in zip(boxes, sides_px, strict=True))
    image.draft(mode, (math.ceil(width * least), math.ceil(height * least)))
    image.load()
    return in_mode(image, mode), (image.height / height, image.width / width)


def _resized(picture: Image.Image, box: np.ndarray, scale: tuple[float, float], side: int) -> Image.Image:
    top, left, height, width = box.tolist()
    if scale == (1, 1):  # only pixels of the box count
        picture = picture.crop((int(left), int(top), int(left + width), int(top + height)))
        return picture.resize((side, side), Image.Resampling.BILINEAR)
    down, across = scale
    box = left * across, top * down, (left + width) * across, (top + height) * down
    return picture.resize((side, side), Image.Resampling.BILINEAR, box=box)
