"""The most and least typical images of each class on one page, as PNG.

Legend: N scored images, H x W px of a picture.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from pipeline.data.loader import squares
from pipeline.data.packed import PackedSplit
from pipeline.density.methods import Scores
from pipeline.pictures.sheet import GAP_PX, HEAD_PX, fitted, font, text_width, thumbnails, tile, to_png

CELL_PX, VALUE_PX, BETWEEN_PX = 64, 12, 24
NUM_CLASSES = 20  # rows of a sheet at most, so that it stays a page
MOST_SIDE_PX = 256


class Shown(NamedTuple):
    """A picture (H, W, 3) uint8 with its score."""

    picture: Tensor
    value: float


def extremes(values: np.ndarray, num: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the indices of the highest and of the lowest values (N,), both falling; none is in both.

    Args:
        values: (N,); of equal ones the earlier comes first.
        num: of each at most. The highest come first: few values are all among them.
    """
    order = np.argsort(-values, kind="stable")
    return order[:num], order[max(num, len(order) - num) :]


def typical_sheet(folder: Path, scores: Scores, num: int) -> bytes:
    """Draw the most and least typical scored test images of each class of a data set, by JEPA-SCORE.

    Args:
        folder: of the packed set.
        scores: of its test images.
        num: images of each kind, for every class; of the first NUM_CLASSES classes that have any.

    Returns:
        a PNG file.
    """
    values = scores.values["jepa_score"]
    classes = dict.fromkeys(name for _, name in sorted(zip(scores.labels.tolist(), scores.classes, strict=True)))
    rows: dict[str, tuple[list[Shown], list[Shown]]] = {}
    for name in list(classes)[:NUM_CLASSES]:
        members = np.flatnonzero(np.array(scores.classes) == name)
        most, least = (members[found] for found in extremes(values[members], num))
        pictures = _pictures(folder, scores.images[np.concatenate([most, least])])
        shown = [Shown(p, values[i]) for p, i in zip(pictures, [*most, *least], strict=True)]
        rows[name] = shown[: len(most)], shown[len(most) :]
    return draw(rows, num)


def _pictures(folder: Path, members: np.ndarray) -> Tensor:
    images = PackedSplit(folder, "test", load_px=MOST_SIDE_PX)
    side = min([*(images.size_px or []), 2 * CELL_PX])
    batch = next(squares(images, torch.from_numpy(members), len(members), side))
    return thumbnails(batch, side)


def draw(rows: Mapping[str, tuple[Sequence[Shown], Sequence[Shown]]], num: int) -> bytes:
    """Draw a row for each class: the most typical pictures at the left, the least typical at the right.

    Args:
        rows: {class: (most typical, least typical)}, each of at most `num` pictures, scores falling.
        num: columns of each kind.

    Returns:
        a PNG file; the score stands under each picture.
    """
    step, line = CELL_PX + GAP_PX, CELL_PX + VALUE_PX + GAP_PX
    margin = GAP_PX + text_width(list(rows))
    starts = margin, margin + num * step + BETWEEN_PX
    page = Image.new("RGB", (starts[1] + num * step, HEAD_PX + GAP_PX + line * len(rows)), "white")
    pen = ImageDraw.Draw(page)
    for left, heading in zip(starts, ("most typical", "least typical"), strict=True):
        pen.text((left, GAP_PX), fitted(heading, num * step), fill="black", font=font())
    for row, (name, blocks) in enumerate(rows.items()):
        top = HEAD_PX + line * row
        pen.text((GAP_PX, top + CELL_PX // 2), name, fill="black", font=font(), anchor="lm")
        for left, block in zip((starts[0], starts[1] + step * (num - len(blocks[1]))), blocks, strict=True):
            for column, (picture, value) in enumerate(block):
                page.paste(tile(picture, CELL_PX), (left + step * column, top))
                place = (left + step * column + CELL_PX // 2, top + CELL_PX + 1)
                pen.text(place, f"{value:.1f}", fill="black", font=font(VALUE_PX), anchor="ma")
    return to_png(page)
