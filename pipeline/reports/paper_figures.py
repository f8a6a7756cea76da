"""The chart of a paper table: ours against published, and both over the axis that the paper varies."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from pipeline.reports import figures
from pipeline.reports.figures import COLOURS, DASHES, GREY, MARKERS
from pipeline.reports.paper_table import varying

Number = Mapping[str, Any]  # a row of `paper_pairing.table_numbers`
Look = tuple[str, str]  # colour and marker
EPOCHS = "epochs"  # an axis of this name is drawn as the minutes that the trainings took
MAX_NAMES = 12  # a longer legend would be larger than the chart


def published_against_ours(table: pd.DataFrame, title: str) -> str:
    """Draw one panel with ours against published, and a second one over a numeric axis where there is one.

    Where the paper has no number at all, the random initialisation stands in the place of the published one.

    Args:
        table: of `paper_pairing.table_numbers`.
        title: for readers that do not see it.

    Returns:
        SVG text; bars are standard deviations over seeds. Where nothing was run, the first panel says so.
    """
    numbers, axes = table.to_dict("records"), varying(table)
    paper = any(number["published"] for number in numbers)
    over = _numeric_axis(numbers, axes)
    names = _series(numbers, [axis for axis in axes if axis != over])
    looks = {name: (COLOURS[i % 10], MARKERS[i // 10 % 10]) for i, name in enumerate(dict.fromkeys(names))}
    with figures.drawing():
        figure, panels = figures.make_panels(2 if over else 1, height=3.6)
        _identity(panels[0], numbers, names, looks)
        handles = [figures.legend_line(name, *look[:1], "none", look[1]) for name, look in looks.items() if name]
        if over:
            _over_axis(panels[1], numbers, names, looks, over)
            handles += [figures.legend_line("ours", GREY, "-", "o")]
            handles += [figures.legend_line("published", GREY, DASHES[2], ".")] * paper
        if handles:
            inches = 0.7 + 0.08 * max(len(handle.get_label()) for handle in handles)
            columns = max(1, min(len(handles), int(figure.get_size_inches()[0] / inches)))
            figure.set_figheight(figure.get_figheight() + 0.19 * -(-len(handles) // columns))  # a line of the legend
            figure.legend(handles=handles, loc="outside lower left", ncols=columns)
        return figures.to_svg(figure, f"{title}: published and ours")


def _numeric_axis(numbers: Sequence[Number], axes: Sequence[str]) -> str:
    """Return the axis with the most values, if these are three or more numbers; the last of equals, as in the table."""
    found = {}
    for axis in axes:
        places = [_place(number, axis) for number in numbers]
        if len(set(places) - {None}) > 2 and (axis in ("metric", EPOCHS) or None not in places):
            found[axis] = len(set(places))
    return max(reversed(found), key=found.__getitem__, default="")


def _place(number: Number, axis: str) -> float | None:
    """Where a number lies on an axis: of metrics, the labelled images a class that the name tells; of epochs, minutes.

    Epochs of a number that was not run, or of an older run without recorded seconds, lie nowhere.
    """
    text = number[axis]
    if axis == EPOCHS:
        return None if pd.isna(number["train_s"]) else number["train_s"] / 60
    if axis == "metric":
        shots = re.search(r"_(\d+)shot$", text)
        return float(shots[1]) if shots else None
    try:
        return float(text)
    except ValueError:
        return None


def _series(numbers: Sequence[Number], axes: Sequence[str]) -> list[str]:
    """Name the series of each number: its place on the other axes, or on so many of them that few names are needed."""
    while True:
        names = [", ".join(_said(number, axis) for axis in axes) for number in numbers]
        if len(set(names)) <= MAX_NAMES:
            return names
        axes = axes[:-1]


def _said(number: Number, axis: str) -> str:
    value = number[axis]
    numeric = axis == EPOCHS or (_place(number, axis) is not None and axis != "metric")
    return f"{axis} {value}" if numeric else value or f"any {axis}"


def _identity(axes: Any, numbers: Sequence[Number], names: Sequence[str], looks: Mapping[str, Look]) -> None:
    paper = any(number["published"] for number in numbers)
    values = []
    for number, name in zip(numbers, names, strict=True):
        published = float(number["published"] or "nan")
        reference = published if paper else number["random_init"]
        if not pd.isna(reference):
            values.append(reference)
        if not pd.isna(reference) and number["seeds"]:
            colour, marker = looks[name]
            axes.errorbar(reference, number["mean"], number["std"], color=colour, marker=marker, elinewidth=0.9)
            values.append(number["mean"])
    ends = [min(values, default=0.0), max(values, default=100.0)]
    axes.plot(ends, ends, color=GREY, linestyle=DASHES[1], linewidth=1.2)
    if not any(number["seeds"] for number in numbers):
        axes.text(0.5, 0.5, "nothing was run", transform=axes.transAxes, ha="center", va="center")
    what = "published" if paper else "random initialisation"
    axes.set(title=f"ours against {what}", xlabel=f"{what}, top-1, %", ylabel="ours, top-1, %")


def _over_axis(
    axes: Any, numbers: Sequence[Number], names: Sequence[str], looks: Mapping[str, Look], over: str
) -> None:
    placed = [(_place(number, over), number, name) for number, name in zip(numbers, names, strict=True)]
    placed = sorted((entry for entry in placed if entry[0] is not None), key=lambda entry: entry[0])
    for name, (colour, marker) in looks.items():
        mine = [(place, number) for place, number, own in placed if own == name]
        paper = [(place, float(number["published"])) for place, number in mine if number["published"]]
        if paper:
            axes.plot(*zip(*paper, strict=True), ".", color=colour, linestyle=DASHES[2], linewidth=1.3)
        ours = [(place, number["mean"], number["std"]) for place, number in mine if number["seeds"]]
        if ours:
            x, y, bars = zip(*ours, strict=True)
            spread = None if pd.isna(list(bars)).all() else bars
            axes.errorbar(x, y, spread, color=colour, marker=marker, elinewidth=0.9)
    places = sorted({place for place, _, _ in placed})
    if places[0] > 0 and places[-1] > 8 * places[0]:
        axes.set_xscale("log")
    axes.minorticks_off()
    shown = places[:: -(-len(places) // 6)]  # more labels would touch
    axes.set_xticks(shown, [f"{place:g}" for place in shown])
    label = {"metric": "labelled images a class", EPOCHS: "minutes of training"}.get(over, over)
    axes.set(title=f"over {label}", xlabel=label, ylabel="top-1, %")
