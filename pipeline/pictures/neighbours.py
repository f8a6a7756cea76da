"""The training images nearest to a query: found by cosine similarity, drawn with right and wrong classes marked.

Legend: Q queries, N training images, D features, k neighbours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from PIL import Image, ImageDraw
from torch import Tensor
from torch.nn.functional import normalize

from pipeline.pictures.sheet import GAP_PX, SMALL_PX, TEXT_PX, fitted, font, tile, to_png

BLOCK = 1024  # queries at a time, so that the similarities stay in memory: 1024 x 1e6 float32 is 4 GB
# Blue and vermilion of Okabe and Ito's palette, which the colour-blind can tell apart; a tick or a cross says it again.
RIGHT, WRONG = (0, 114, 178), (213, 94, 0)
QUERY_PX, NEIGHBOUR_PX, FRAME_PX, SIGN_PX, NUM_ABREAST, NUM_COLOURS = 96, 64, 3, 16, 2, 128
PITCH_PX, LINE_PX = NEIGHBOUR_PX + 2 * FRAME_PX + GAP_PX // 2, TEXT_PX + 6
STRIP_PX = NEIGHBOUR_PX + 2 * FRAME_PX + 2 * LINE_PX + GAP_PX // 2


class Labelled(NamedTuple):
    """A picture (H, W, 3) uint8 with the name of its class."""

    picture: Tensor
    name: str


def nearest(queries: Tensor, references: Tensor, k: int) -> Tensor:
    """Return the indices (Q, k) int64 of the references (N, D) most similar to queries (Q, D), nearest first.

    The similarity is the cosine, as in the k-NN probe; k is capped at N.
    """
    bank, k = normalize(references, dim=1).T, min(k, len(references))
    blocks = normalize(queries, dim=1).split(BLOCK)
    return torch.cat([(block @ bank).topk(k, dim=1).indices for block in blocks])


def draw(queries: Sequence[Labelled], spaces: Mapping[str, Sequence[Sequence[Labelled]]]) -> bytes:
    """Draw each query with its neighbours, a strip for every space that they were found in, one under another.

    Args:
        queries: Q of them.
        spaces: by name, for each query its neighbours, nearest first.

    Returns:
        a PNG file. A neighbour of the query's class has a blue frame and a tick, another an orange frame and a cross.
    """
    num = max(len(strip) for strips in spaces.values() for strip in strips)
    width, height = QUERY_PX + num * PITCH_PX + 4 * GAP_PX, len(spaces) * STRIP_PX + 2 * GAP_PX
    abreast = min(NUM_ABREAST, len(queries))
    page = Image.new("RGB", (abreast * width, -(-len(queries) // abreast) * height), "white")
    for place, query in enumerate(queries):
        left, top = place % abreast * width + GAP_PX, place // abreast * height + GAP_PX
        _query(page, left, top + LINE_PX, query)
        for row, (name, strips) in enumerate(spaces.items()):
            _strip(page, left + QUERY_PX + GAP_PX, top + row * STRIP_PX, name, query, strips[place])
    return to_png(page, num_colours=NUM_COLOURS)


def _query(page: Image.Image, left: int, top: int, query: Labelled) -> None:
    pen = ImageDraw.Draw(page)
    page.paste(tile(query.picture, QUERY_PX), (left, top))
    pen.rectangle((left, top, left + QUERY_PX - 1, top + QUERY_PX - 1), outline="black")
    for line, text in enumerate(("query:", query.name)):
        at = (left, top + QUERY_PX + GAP_PX // 2 + line * LINE_PX)
        pen.text(at, fitted(text, QUERY_PX), fill="black", font=font())


def _strip(page: Image.Image, left: int, top: int, name: str, query: Labelled, neighbours: Sequence[Labelled]) -> None:
    pen = ImageDraw.Draw(page)
    num_right = sum(neighbour.name == query.name for neighbour in neighbours)
    pen.text((left, top), f"{name}: {num_right} of {len(neighbours)} right", fill="black", font=font())
    side, top = NEIGHBOUR_PX + 2 * FRAME_PX, top + LINE_PX
    for rank, neighbour in enumerate(neighbours):
        x, is_right = left + rank * PITCH_PX, neighbour.name == query.name
        pen.rectangle((x, top, x + side - 1, top + side - 1), fill=RIGHT if is_right else WRONG)
        page.paste(tile(neighbour.picture, NEIGHBOUR_PX), (x + FRAME_PX, top + FRAME_PX))
        _sign(pen, x + side - SIGN_PX, top + side - SIGN_PX, is_right)
        text = fitted(neighbour.name, PITCH_PX - 2, SMALL_PX)
        pen.text((x + side // 2, top + side + 2), text, fill="black", font=font(SMALL_PX), anchor="ma")


def _sign(pen: ImageDraw.ImageDraw, left: int, top: int, is_right: bool) -> None:
    """Draw a white tick or cross on the colour of the frame."""
    pen.rectangle((left, top, left + SIGN_PX - 1, top + SIGN_PX - 1), fill=RIGHT if is_right else WRONG)
    strokes = [((3, 8), (6, 11), (12, 4))] if is_right else [((4, 4), (11, 11)), ((4, 11), (11, 4))]
    for stroke in strokes:
        pen.line([(left + x, top + y) for x, y in stroke], fill="white", width=2)
