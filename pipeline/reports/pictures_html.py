"""The pictures as sections of index.html. All text is escaped here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape
from pathlib import Path
from typing import Any

from PIL import Image

from pipeline.core.results import read_json
from pipeline.pictures.captions import FACTS, shares
from pipeline.runtime.absent import reason

LEAD = (
    "What a frozen backbone sees: for each architecture the run that diagnose picked without labels, beside the same "
    "architecture as it was initialised, and raw pixels. What those two show as well, training did not bring. The "
    "images are drawn with seed {seed}, not chosen."
)
READING = {
    "Features and attention": (
        "Top: test images as the backbone is shown them. PCA: the first three principal components of the features "
        "at each place, over all these images together, as red, green and blue. Within a row equal colours mean "
        "similar features, in all images; a hue as such means nothing, and rows do not share their colours. "
        "Attention: how much the class token of the last block attends to each place, mean over heads. A network "
        "without class token has its mean activation instead, the mean absolute value of the features at each place. "
        "Dark is little, pale much, from the least to the most of each picture. Straight bands along a border are "
        "traces of zero padding."
    ),
    "Nearest neighbours": (
        "Left: a test image. Beside it, nearest first, the training images whose embeddings are most similar to its "
        "own (cosine). Blue frame and tick: of the query's class. Orange frame and cross: of another."
    ),
    "Map of the embedding": (
        "Test images, a dot each, laid out by t-SNE so that similar ones lie close to each other, and coloured by "
        "class, which the layout does not know. Being close means something; the distance between groups, their size "
        "and the orientation do not. Under each map: how many of an image's ten nearest are of its class, on the map "
        "and in the embedding with all its dimensions."
    ),
}
STITCHED = (
    ", for which it looked at {num} copies of each image, shifted by fractions of a position: the picture puts what it "
    "saw in them between each other"
)


def section(folder: Path) -> list[tuple[str, str]]:
    """Return the sections of index.html, one for each data set: (heading, HTML).

    Args:
        folder: reports/pictures, with a folder for each data set, written by the stage pictures; the page stands beside
            it.

    Returns:
        A section that names the gap, if there is nothing.
    """
    found = sorted(folder.glob(f"*/{FACTS}"))
    absent = {path.name: why for path in sorted(folder.glob("*")) if (why := reason(path))}
    told = [(f"Pictures: {name}", f'<p class="note">{escape(why)}</p>') for name, why in absent.items()]
    if not found and not told:
        return [("Pictures", "<p>There are no pictures yet; make them with <code>dvc repro pictures</code>.</p>")]
    return [_dataset(path.parent, read_json(path)) for path in found] + told


def _dataset(folder: Path, facts: Mapping[str, Any]) -> tuple[str, str]:
    settings = facts["settings"]
    lead = f"<p>{escape(LEAD.format(seed=settings['seed']))}</p>"
    reading = "".join(f"<li><b>{name}.</b> {escape(text)}</li>" for name, text in READING.items())
    runs = "".join(
        f"<details{' open' * (place == 0)}><summary><b>{escape(name)}</b>, λ = {escape(str(run['lambda']))}: nearest "
        f"{settings['num_neighbours']} of the right class: {escape(shares(run))}</summary>"
        f"{''.join(_figures(folder, name, run, settings['num_neighbours']))}</details>"
        for place, (name, run) in enumerate(facts["backbones"].items())
    )
    return f"Pictures: {facts['dataset']}", f'{lead}<ul class="note">{reading}</ul>{runs}'


def _figures(folder: Path, name: str, run: Mapping[str, Any], k: int) -> Iterator[str]:
    if "no_features" in run:
        yield f"<p>{escape(name)}: no picture of features: {escape(run['no_features'])}.</p>"
    else:
        yield _figure(folder, f"{name}-features.png", "Features and attention", f"{name}: {_features(run)}")
    yield _figure(
        folder,
        f"{name}-neighbours.png",
        "Nearest neighbours",
        f"{name}: the {k} nearest of {run['num_train']:,} training images. Over all {run['num_test']:,} test images, "
        f"nearest {k} of the right class: {shares(run)}.",
    )
    yield _figure(
        folder,
        f"{name}-map.png",
        "Map of the embedding",
        f"{name}: {run['num_mapped']:,} test images. Ten nearest of the right class: {shares(run, 'map_agreement')} on "
        f"the maps; {shares(run, 'embedding_agreement')} in all dimensions.",
    )


def _features(run: Mapping[str, Any]) -> str:
    """Say what the sheet of features shows of a run."""
    what = "attention of the class token" if run["class_token"] else "mean activation"
    layer = run["layer"]
    if layer != "last layer":
        layer = f"layer {layer}, the deepest with enough positions to see something"
    num = (run["fine_grid"][0] // run["grid"][0]) ** 2
    positions = " × ".join(map(str, run["grid"])) + " positions" + (STITCHED.format(num=num) if num > 1 else "")
    return (
        f"PCA and {what} of the {layer}, learned and at random initialisation, for {run['num_shown']} images. The "
        f"network has {positions}."
    )


def _figure(folder: Path, file: str, alt: str, caption: str) -> str:
    """Return an image with its size, so that nothing moves when it comes, and a caption."""
    with Image.open(folder / file) as picture:
        width, height = picture.size
    source = "/".join((folder.parent.name, folder.name, file))
    return (
        f'<figure><div class="scroll"><img class="chart" src="{escape(source)}" alt="{escape(alt)}" loading="lazy" '
        f'width="{width}" height="{height}"></div><figcaption>{escape(caption)}</figcaption></figure>'
    )
