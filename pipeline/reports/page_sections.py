"""The sections of index.html: reports that other stages wrote, with their pictures."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pipeline.pictures.captions import FACTS, shares
from pipeline.reports.comparison import CAPTIONS
from pipeline.reports.render import Section, bullets, figure, fold, join, literal, to_html
from pipeline.runtime.absent import reason
from pipeline.runtime.errors import UserError
from pipeline.runtime.files import read_json

LEAD = (
    "What a frozen backbone sees: for each architecture the run that diagnose selected without labels, beside the same "
    "architecture as it was initialised, and raw pixels. What those two also show is not learned. The "
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


def note(heading: str, text: str) -> Section:
    """Make a section that is one plain line."""
    return Section(heading, to_html(literal(text)))


def comparison_sections(out: Path) -> tuple[str, list[Section]]:
    """Return the title of comparison.md and its sections, each data set with its figures.

    Raises:
        UserError: there is none.
    """
    path = out / "comparison.md"
    if not path.is_file():
        raise UserError(f"no {path}; make it with: dvc repro compare")
    lead, *parts = re.split(r"^## ", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    title, _, lead = lead.removeprefix("# ").partition("\n")
    sections = [Section("Overview", to_html(lead))]
    for part in parts:
        heading, _, body = part.partition("\n")
        heading = _plain(heading)
        files = {kind: f"figures/{kind}-{heading}.svg" for kind in CAPTIONS}
        shown = [figure(CAPTIONS[kind], file) for kind, file in files.items() if (out / file).is_file()]
        sections.append(Section(heading, to_html(join(body, *shown), out)))
    return _plain(title), sections


def _plain(markdown: str) -> str:
    """Undo `literal`."""
    return re.sub(r"\\(.)", r"\1", markdown)


def report_section(folder: Path, heading: str, command: str, root: Path) -> Section:
    """Make a section of folder/report.md, or one that says why it is not there.

    Args:
        folder: of an analysis.
        heading: of the section; the report's own is left out.
        command: what makes the report.
        root: folder of the page.
    """
    if why := reason(folder):
        return note(heading, why)
    path = folder / "report.md"
    if not path.is_file():
        return Section(heading, to_html(f"Not made: {literal(str(folder))} is not there; run `{command}`."))
    text = re.sub(r"^# .*\n", "", path.read_text(encoding="utf-8"), count=1, flags=re.MULTILINE)
    return Section(heading, to_html(text, folder, root))


def paper_sections(path: Path) -> list[Section]:
    """Make the section of reports/paper.md, each pipeline behind a line that opens it; none without that file."""
    if not path.exists():
        return []
    lead, *parts = re.split(r"^## ", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    told = to_html(lead.partition("\n")[2])
    return [Section("The paper's tables", told + "".join(_pipeline(part, path.parent) for part in parts))]


def _pipeline(part: str, folder: Path) -> str:
    heading, _, body = part.partition("\n")
    return fold(_plain(heading), to_html(body, folder))


def picture_sections(folder: Path) -> list[Section]:
    """Make a section for each data set of reports/pictures, or one that says why there is none.

    Args:
        folder: with a folder for each data set, written by the stage pictures; the page stands beside it.
    """
    found = []
    for place in sorted(folder.glob("*")):
        if why := reason(place):
            found.append(note(f"Pictures: {place.name}", why))
        elif (place / FACTS).exists():
            found.append(_dataset(place, folder.parent))
    return found or [Section("Pictures", to_html("There are no pictures yet; make them with `dvc repro pictures`."))]


def _dataset(folder: Path, root: Path) -> Section:
    facts = read_json(folder / FACTS)
    settings = facts["settings"]
    lead = join(LEAD.format(seed=settings["seed"]), bullets([f"**{name}.** {text}" for name, text in READING.items()]))
    runs = [
        fold(
            f"{name}, λ = {run['lambda']}: nearest {settings['num_neighbours']} of the right class: {shares(run)}",
            to_html(join(*_figures(name, run, settings["num_neighbours"])), folder, root),
            is_open=place == 0,
        )
        for place, (name, run) in enumerate(facts["backbones"].items())
    ]
    return Section(f"Pictures: {facts['dataset']}", to_html(lead) + "".join(runs))


def _figures(name: str, run: Mapping[str, Any], k: int) -> Iterator[str]:
    if "no_features" in run:
        yield literal(f"{name}: no picture of features: {run['no_features']}.")
    else:
        yield figure(f"{name}: {_features(run)}", f"{name}-features.png")
    told = (
        f"{name}: the {k} nearest of {run['num_train']:,} training images. Over all {run['num_test']:,} test images, "
        f"nearest {k} of the right class: {shares(run)}."
    )
    yield figure(told, f"{name}-neighbours.png")
    told = (
        f"{name}: {run['num_mapped']:,} test images. Ten nearest of the right class: {shares(run, 'map_agreement')} on "
        f"the maps; {shares(run, 'embedding_agreement')} in all dimensions."
    )
    yield figure(told, f"{name}-map.png")


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
