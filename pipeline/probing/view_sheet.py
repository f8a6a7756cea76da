"""A picture of the views that a network was trained with: an image a row, a view a column.

V views, B images.
"""

from __future__ import annotations

import io

import torch
from PIL import Image
from torch import Tensor

from pipeline.core.seeds import generator
from pipeline.data.loader import batches, views_of
from pipeline.data.packed import ImageBatch, PackedSplit
from pipeline.data.photographs import RandomCut
from pipeline.data.views.multicrop import Multicrop
from pipeline.probing.health import DRAWS_SEED, some_images

NUM_IMAGES = 6
CELL_PX, GAP_PX, MAX_VIEWS = 96, 4, 10


@torch.inference_mode()
def draw(images: ImageBatch | PackedSplit, views: Multicrop) -> bytes:
    """Draw views of some images, the same ones for every network that sees them so.

    Args:
        images: a split; on the CPU.
        views: those of training.

    Returns:
        a PNG file, of at most 10 columns: global views, then local ones.
    """
    cut = RandomCut(views, DRAWS_SEED, "shown crops")
    (batch,) = batches(images, some_images(images, NUM_IMAGES), NUM_IMAGES, cut=cut)
    groups = views_of(batch, views, generator=generator(DRAWS_SEED, "shown views"))
    shown = [view for group in groups if group is not None for view in _pixels(group, views)][:MAX_VIEWS]
    step = CELL_PX + GAP_PX
    page = Image.new("RGB", (step * len(shown) - GAP_PX, step * len(shown[0]) - GAP_PX), "white")
    for column, view in enumerate(shown):
        for row, picture in enumerate(view):
            tile = Image.fromarray(picture.numpy()).resize((CELL_PX, CELL_PX), Image.Resampling.NEAREST)
            page.paste(tile, (step * column, step * row))
    file = io.BytesIO()
    page.quantize(128, dither=Image.Dither.NONE).save(file, "PNG", optimize=True)
    return file.getvalue()


def _pixels(group: Tensor, views: Multicrop) -> Tensor:
    """Undo the normalisation: (V, B, 3, s, s) float32 -> (V, B, s, s, 3) uint8."""
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (views.mean, views.std))
    return (255 * (group * std + mean)).round().clamp(0, 255).to(torch.uint8).movedim(2, 4)
