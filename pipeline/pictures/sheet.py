"""Sheets of pictures as PNG, equal bytes for equal input.

Pillow's own font has ASCII alone, so texts here do without × and λ.

Legend: N images, H x W px of an image.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import cache

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from pipeline.data.packed import ImageBatch
from pipeline.data.views.multicrop import evaluation_view

CELL_PX, GAP_PX, HEAD_PX, TEXT_PX, SMALL_PX = 192, 8, 28, 14, 12


def sheet(
    rows: Sequence[Sequence[Tensor]], *, above: Sequence[str], beside: Sequence[str] = (), cell_px: int = CELL_PX
) -> bytes:
    """Draw rows of pictures.

    Args:
        rows: pictures (H, W, 3) uint8 of any size; all rows of one length. Small pictures and maps are enlarged with
            sharp edges, large ones shrunk smoothly.
        above: heading of each column.
        beside: text at the left of each row, of one or more lines; none: no room for it.
        cell_px: side of a picture on the sheet.

    Returns:
        a PNG file.
    """
    lengths = {len(above), *map(len, rows)}
    if len(lengths) != 1 or len(beside) not in (0, len(rows)):
        raise ValueError(f"rows and headings must be of one length, got {sorted(lengths)}, beside {len(beside)} rows")
    step, margin = cell_px + GAP_PX, GAP_PX + text_width(beside)
    page = Image.new("RGB", (margin + step * len(above), step * len(rows) + HEAD_PX + GAP_PX), "white")
    pen = ImageDraw.Draw(page)
    for column, heading in enumerate(above):
        pen.text((margin + step * column, GAP_PX), fitted(heading, cell_px), fill="black", font=font())
    for row, pictures in enumerate(rows):
        top = HEAD_PX + GAP_PX + step * row
        if beside:
            pen.text((GAP_PX, top + cell_px // 2), beside[row], fill="black", font=font(), anchor="lm")
        for column, picture in enumerate(pictures):
            page.paste(tile(picture, cell_px), (margin + step * column, top))
    return to_png(page)


def thumbnails(images: ImageBatch, size_px: int) -> Tensor:
    """Return what a backbone is shown, before it is normalised: the centred squares, (N, size_px, size_px, 3) uint8."""
    plain = evaluation_view(images.pixels, size_px, mean=(0.0,) * 3, std=(1.0,) * 3)
    return (255 * plain.permute(0, 2, 3, 1)).round().clamp(0, 255).to(torch.uint8).cpu()


def tile(picture: Tensor, side_px: int) -> Image.Image:
    """Bring a picture (H, W, 3) uint8 to a square: enlarged with sharp edges, shrunk smoothly."""
    pixels: np.ndarray = picture.cpu().numpy()
    smaller = max(pixels.shape[:2]) <= side_px
    sampling = Image.Resampling.NEAREST if smaller else Image.Resampling.LANCZOS
    return Image.fromarray(pixels).resize((side_px, side_px), sampling)


@cache
def font(size_px: int = TEXT_PX) -> ImageFont.FreeTypeFont:
    """Return Pillow's own font."""
    return ImageFont.load_default(size=size_px)


def fitted(text: str, width_px: int, size_px: int = TEXT_PX) -> str:
    """Shorten a line of text until it fits a width."""
    if font(size_px).getlength(text) <= width_px:
        return text
    while text and font(size_px).getlength(f"{text}...") > width_px:
        text = text[:-1]
    return f"{text.rstrip()}..."


def text_width(texts: Sequence[str], size_px: int = TEXT_PX) -> int:
    """Return the width of the longest line, with a gap; 0 for no text."""
    lines = [line for text in texts for line in text.splitlines()]
    return max((round(font(size_px).getlength(line)) + GAP_PX for line in lines), default=0)


def to_png(page: Image.Image, *, num_colours: int | None = None) -> bytes:
    """Encode a page; a palette of `num_colours`, at most 256, makes the file smaller by a third or more."""
    file = io.BytesIO()
    if num_colours:
        page = page.quantize(num_colours, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    page.save(file, "PNG", optimize=True)
    return file.getvalue()
