"""A two-dimensional map of an embedding: t-SNE, how well places on it agree with the classes, and its drawing.

Legend: M images, D features, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageDraw
from sklearn.manifold import TSNE
from sklearn.neighbors import NearestNeighbors
from threadpoolctl import threadpool_limits
from torch import Tensor
from torch.nn.functional import normalize

from pipeline.pictures.colours import project
from pipeline.pictures.sheet import GAP_PX, SMALL_PX, TEXT_PX, fitted, font, to_png
from pipeline.runtime.bars import DELAY_S, bar, num_cpus

NUM_COMPONENTS, PERPLEXITY, NUM_NEIGHBOURS = 50, 30, 10
# Raw pixels of 1,000 Fashion-MNIST images: KL 0.651 after 500 steps, 0.625 after 1,000, in 1.6 times the time; the
# agreement was 69.4 % either way (measured: reports/LOG.md, 2026-11-22).
NUM_STEPS = 500
# Ten colours that keep their order of lightness in grey; classes beyond the tenth are grey.
COLOURS = [
    (31, 119, 180), (255, 127, 14), (44, 160, 44), (214, 39, 40), (148, 103, 189),
    (140, 86, 75), (227, 119, 194), (23, 190, 207), (188, 189, 34), (40, 40, 40),
]  # fmt: skip
OTHERS, GROUND, BORDER = (190, 196, 204), (250, 250, 251), (214, 219, 226)
PANEL_PX, INSET_PX, LINE_PX, SCALE, DOT_PX, NUM_COLOURS = 336, 14, TEXT_PX + 8, 4, 2.6, 128


class Map(NamedTuple):
    """Points (M, 2) float64, and the share of same-class neighbours on the map and among all D features."""

    points: Tensor
    agreement: float
    embedding_agreement: float


def make_map(features: Tensor, labels: Tensor) -> Map:
    """Lay images out in two dimensions, those with similar features close to each other.

    Features are scaled to length 1, so that distances follow the cosine similarity as in the k-NN probe, and reduced to
    NUM_COMPONENTS principal components. t-SNE starts from the first two, so that nothing is drawn at random. It runs on
    one thread, since several add up in the order in which they come, and equal input should give equal points.

    Args:
        features: (M, D).
        labels: (M,) int64, for the agreement alone.
    """
    unit = normalize(features, dim=1)
    reduced = project(unit, min(NUM_COMPONENTS, *unit.shape)).numpy()
    start = reduced[:, :2] * (1e-4 / max(reduced[:, 0].std(), np.finfo(np.float64).tiny))
    perplexity = min(PERPLEXITY, (len(unit) - 1) / 3)
    with threadpool_limits(1, "openmp"):
        tsne = TSNE(perplexity=perplexity, max_iter=NUM_STEPS, init=start)
        points = torch.from_numpy(tsne.fit_transform(reduced)).double()
    return Map(points, agreement(points, labels), agreement(unit, labels))


def make_maps(descriptions: Sequence[Tensor], labels: Tensor) -> list[Map]:
    """Return `make_map` of several descriptions (M, any) of the same images; every core works on one of them."""
    with threadpool_limits(1, "blas"), ThreadPoolExecutor(num_cpus()) as pool:
        made = pool.map(partial(make_map, labels=labels), descriptions)
        return list(bar("maps", len(descriptions), unit="map", delay_s=DELAY_S, iterable=made))


def agreement(points: Tensor, labels: Tensor) -> float:
    """Return the mean share of a point's NUM_NEIGHBOURS nearest others that are of its class.

    Args:
        points: (M, any), M >= 2.
        labels: (M,) int64.
    """
    k = min(NUM_NEIGHBOURS, len(points) - 1)
    found = NearestNeighbors(n_neighbors=k).fit(points.numpy()).kneighbors(return_distance=False)
    return float((labels[torch.from_numpy(found)] == labels[:, None]).double().mean())


def draw(maps: Mapping[str, Map], labels: Tensor, classes: Sequence[str]) -> bytes:
    """Draw maps of the same images side by side, a dot an image, with the agreement under each.

    Args:
        maps: by heading.
        labels: (M,) int64.
        classes: C names. The first ten are coloured and named where their dots are densest; the rest is grey.

    Returns:
        a PNG file.
    """
    names = list(classes[: len(COLOURS)])
    swatches = [*zip(names, COLOURS, strict=False), *[("other classes", OTHERS)] * (len(classes) > len(names))]
    pitch, per_row = PANEL_PX + 2 * GAP_PX, 2 * len(maps)
    legend_top = 4 * LINE_PX + PANEL_PX
    page = Image.new(
        "RGB", (len(maps) * pitch, legend_top + LINE_PX * (-(-len(swatches) // per_row)) + GAP_PX), "white"
    )
    pen = ImageDraw.Draw(page)
    for column, (heading, found) in enumerate(maps.items()):
        left = column * pitch + GAP_PX
        pen.text((left, GAP_PX), heading, fill="black", font=font())
        page.paste(_panel(found.points, labels, names), (left, GAP_PX + LINE_PX))
        told = (
            f"{NUM_NEIGHBOURS} nearest on the map: {100 * found.agreement:.0f} % of the same class",
            f"in all dimensions: {100 * found.embedding_agreement:.0f} %",
        )
        for row, text in enumerate(told):
            pen.text((left, PANEL_PX + (row + 1.6) * LINE_PX), text, fill="black", font=font())
    for place, (name, colour) in enumerate(swatches):
        left, top = place % per_row * (pitch // 2) + GAP_PX, legend_top + place // per_row * LINE_PX
        pen.ellipse((left, top + 2, left + 12, top + 14), fill=colour)
        pen.text((left + 18, top), fitted(name, pitch // 2 - 30), fill="black", font=font())
    return to_png(page, num_colours=NUM_COLOURS)


def _panel(points: Tensor, labels: Tensor, names: Sequence[str]) -> Image.Image:
    """Draw one map, enlarged at first and then shrunk, so that dots are round."""
    low, high = points.amin(0), points.amax(0)
    room, span = PANEL_PX - 2 * INSET_PX, max(float((high - low).max()), 1e-9)
    places = PANEL_PX / 2 + (points - (low + high) / 2) * (room / span)
    large = Image.new("RGB", (PANEL_PX * SCALE, PANEL_PX * SCALE), GROUND)
    pen, radius = ImageDraw.Draw(large), SCALE * DOT_PX
    for (x, y), label in zip((SCALE * places).tolist(), labels.tolist(), strict=True):
        colour = COLOURS[label] if label < len(names) else OTHERS
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)
    panel = large.resize((PANEL_PX, PANEL_PX), Image.Resampling.LANCZOS)
    pen = ImageDraw.Draw(panel)
    pen.rectangle((0, 0, PANEL_PX - 1, PANEL_PX - 1), outline=BORDER)
    for name, at in name_places(places, labels, names).items():
        pen.text(at, name, fill="black", font=font(SMALL_PX), anchor="mm", stroke_width=2, stroke_fill="white")
    return panel


def name_places(places: Tensor, labels: Tensor, names: Sequence[str]) -> dict[str, tuple[float, float]]:
    """Choose where names stand: where the dots of the class are densest, or near it if another name is there already.

    Args:
        places: (M, 2), of the dots on the panel, px.
        labels: (M,) int64.
        names: of the first classes.

    Returns:
        Middles, px, of the names that have dots.
    """
    found: dict[str, tuple[float, float]] = {}
    for label, name in enumerate(names):
        if not (mine := places[labels == label]).numel():
            continue
        half = font(SMALL_PX).getlength(name) / 2
        x, y = densest(mine).tolist()
        x, y = min(max(x, half + 3), PANEL_PX - half - 3), min(max(y, SMALL_PX), PANEL_PX - SMALL_PX)
        steps = sorted(range(-PANEL_PX // SMALL_PX, PANEL_PX // SMALL_PX), key=abs)
        rows = [row for step in steps if SMALL_PX <= (row := y + step * SMALL_PX) <= PANEL_PX - SMALL_PX]
        free = [row for row in rows if not any(_overlap(name, (x, row), *other) for other in found.items())]
        found[name] = (x, (free or rows)[0])
    return found


def _overlap(name: str, at: tuple[float, float], other: str, there: tuple[float, float]) -> bool:
    reach = (font(SMALL_PX).getlength(name) + font(SMALL_PX).getlength(other)) / 2
    return abs(at[0] - there[0]) < reach and abs(at[1] - there[1]) < SMALL_PX


def densest(points: Tensor) -> Tensor:
    """Return the point (2,) of points (M, 2) whose nearest third of the others is closest."""
    distances = torch.cdist(points, points)
    return points[distances.kthvalue(max(1, len(points) // 3), dim=1).values.argmin()]
