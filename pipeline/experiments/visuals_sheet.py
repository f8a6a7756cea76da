"""A sheet of pictures as PNG, equal bytes for equal input: a row for each image, a column for each way to look at it.

Legend: N images, H x W px of an image, h x w positions of a map.
"""

from __future__ import annotations

import io
from collections.abc import Mapping

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn.functional import interpolate

CELL_PX, GAP_PX, HEAD_PX = 192, 8, 28
# Dark blue to pale yellow, lightness rising, so that it reads in grey and by the colour-blind.
RAMP = [(13, 8, 70), (84, 20, 125), (160, 40, 112), (217, 82, 77), (246, 146, 57), (252, 244, 160)]
VEIL, THICKNESS = (96, 104, 152), 0.8  # over what a mask leaves out; a colour that shows on black and on white


def heat(maps: Tensor) -> Tensor:
    """Colour maps (N, h, w), each from its smallest to its largest value, as (N, h, w, 3) uint8; constant ones dark."""
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    share = ((maps - low) / (high - low).clamp_min(torch.finfo(maps.dtype).tiny)).cpu().numpy()
    stops = np.linspace(0, 1, len(RAMP))
    channels = [np.interp(share, stops, channel) for channel in zip(*RAMP, strict=True)]
    return torch.from_numpy(np.stack(channels, axis=-1).round().astype(np.uint8))


def cut_out(images: Tensor, masks: Tensor) -> Tensor:
    """Lay a veil over images (N, H, W, 3) uint8 where masks (N, h, w) bool are false."""
    kept = interpolate(masks[:, None].float(), size=images.shape[1:3], mode="nearest")[:, 0, :, :, None]
    veiled = (1 - THICKNESS) * images + THICKNESS * torch.tensor(VEIL)
    return torch.where(kept > 0, images, veiled.round().to(torch.uint8))


def sheet(columns: Mapping[str, Tensor]) -> bytes:
    """Draw columns of pictures.

    Args:
        columns: by heading, (N, H, W, 3) uint8 of any size; all of one N. Small pictures and maps are enlarged with
            sharp edges, large ones shrunk smoothly.

    Returns:
        a PNG file.
    """
    num_rows = {len(pictures) for pictures in columns.values()}
    if len(num_rows) != 1:
        raise ValueError(f"columns must be of one length, got {sorted(num_rows)}")
    step = CELL_PX + GAP_PX
    page = Image.new("RGB", (step * len(columns) + GAP_PX, step * num_rows.pop() + HEAD_PX + GAP_PX), "white")
    pen, font = ImageDraw.Draw(page), ImageFont.load_default(size=14)
    for column, (heading, pictures) in enumerate(columns.items()):
        left = GAP_PX + step * column
        pen.text((left, GAP_PX), heading, fill="black", font=font)
        for row, picture in enumerate(pictures.cpu().numpy()):
            page.paste(_cell(picture), (left, HEAD_PX + GAP_PX + step * row))
    file = io.BytesIO()
    page.save(file, "PNG", optimize=True)
    return file.getvalue()


def _cell(picture: np.ndarray) -> Image.Image:
    smaller = max(picture.shape[:2]) <= CELL_PX
    sampling = Image.Resampling.NEAREST if smaller else Image.Resampling.LANCZOS
    return Image.fromarray(picture).resize((CELL_PX, CELL_PX), sampling)
