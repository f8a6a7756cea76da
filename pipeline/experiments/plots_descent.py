"""The figures of gradient descent on raw samples (figures 6, 16 and 7), in the style of pipeline/reports/figures.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from pipeline.reports.figures import (
    COLOURS,
    DASHES,
    INK,
    MARKERS,
    RC,
    add_legend,
    legend_line,
    log_y_axis,
    make_panels,
    to_svg,
)

GREY = "#8a94a1"
Row = Mapping[str, Any]


def clouds(
    points: Mapping[str, Sequence[Sequence[float]] | None], labels: Mapping[str, str], title: str, *, columns: int = 5
) -> str:
    """Draw the first two dims of one cloud before and after descent on each statistic.

    Args:
        points: {name: N pairs, or None where descent overflowed}; the first is the cloud before descent, in grey.
        labels: panel titles.
        title: name of the figure.
        columns: panels in a row.

    Returns:
        SVG text; all panels share their axes, and what lies outside is cut off.
    """
    num_rows = -(-len(points) // columns)
    with matplotlib.rc_context({**RC, "axes.titlesize": 9, "font.size": 8}):
        figure = Figure(figsize=(2.05 * columns, 2.15 * num_rows), layout="constrained")
        panels = figure.subplots(num_rows, columns, squeeze=False, sharex=True, sharey=True).ravel()
        for axes in panels[len(points) :]:
            axes.remove()
        for place, (axes, (name, cloud)) in enumerate(zip(panels, points.items(), strict=False)):
            axes.set_title(labels[name])
            axes.set(xlim=(-4, 4), ylim=(-4, 4), aspect="equal", xticks=(-3, 0, 3), yticks=(-3, 0, 3))
            if cloud is None:
                axes.text(0, 0, "overflow", ha="center", va="center")
            else:
                colour = COLOURS[2] if place else GREY
                axes.plot(*zip(*cloud, strict=True), "o", color=colour, markersize=3, alpha=0.75, markeredgewidth=0)
        return to_svg(figure, title)


def leftovers(
    summary: Sequence[Row], labels: Mapping[str, str], bounds: Mapping[str, float], measures: Mapping[str, str]
) -> str:
    """Draw each measure of each statistic, mean and standard deviation over seeds: a row of panels for each D.

    Args:
        summary: rows of `repair_report.summarise`.
        labels: names of the statistics.
        bounds: what 97.5 % of Gaussian samples stay below, for each measure.
        measures: {measure: axis label}.

    Returns:
        SVG text; the grey band is where Gaussian samples lie.
    """
    names = list(dict.fromkeys(row["statistic"] for row in summary))
    dims = sorted({row["dim"] for row in summary})
    slices = sorted({row["num_slices"] for row in summary if row["num_slices"] is not None})
    with matplotlib.rc_context(RC):
        figure = Figure(figsize=(9.6, 0.9 + len(dims) * (0.5 + 0.19 * len(names))), layout="constrained")
        panels = figure.subplots(len(dims), len(measures), squeeze=False, sharey=True, sharex="col")
        for line, dim in zip(panels, dims, strict=True):
            for axes, measure in zip(line, measures, strict=True):
                axes.axvspan(
                    -bounds[measure] if measure == "x_left" else 0, bounds[measure], color=GREY, alpha=0.25, lw=0
                )
                _dots(axes, [row for row in summary if row["dim"] == dim], names, measure, slices)
                if measure == "energy_distance":
                    _log_x(axes)
                axes.set_title(f"D = {dim}")
            line[0].set_yticks(range(len(names)), [labels[name] for name in names])
            line[0].invert_yaxis()
        for axes, label in zip(panels[-1], measures.values(), strict=True):
            axes.set_xlabel(label)
        handles = [legend_line("no slices", GREY, "none", MARKERS[0])]
        handles += [legend_line(f"S = {num}", COLOURS[i], "none", MARKERS[i + 1]) for i, num in enumerate(slices)]
        add_legend(figure, handles)
        return to_svg(figure, "what is left of the X")


def _dots(axes: Any, rows: Sequence[Row], names: Sequence[str], measure: str, slices: Sequence[int]) -> None:
    for row in (row for row in rows if row[f"{measure}_mean"] is not None):
        index = slices.index(row["num_slices"]) if row["num_slices"] is not None else None
        look = {"color": GREY, "marker": MARKERS[0]}
        shift = 0.0
        if index is not None:
            look = {"color": COLOURS[index], "marker": MARKERS[index + 1]}
            shift = 0.25 * (index - (len(slices) - 1) / 2)
        place = names.index(row["statistic"]) + shift
        axes.errorbar(row[f"{measure}_mean"], place, xerr=row[f"{measure}_std"], elinewidth=0.9, markersize=4, **look)


def coverage(
    summary: Sequence[Row],
    histories: Mapping[tuple[str, int], Sequence[tuple[int, float]]],
    labels: Mapping[str, str],
    levels: Sequence[str],
    measures: Mapping[str, str],
) -> str:
    """Draw SIGReg against the number of directions, a panel per measure, and against steps for some of the descents.

    Args:
        summary: rows of `resampling_report.summarise`.
        histories: {(scheme, S): (steps done, held-out SIGReg)}.
        labels: names of the schemes.
        levels: schemes without directions of their own, drawn as level lines.
        measures: {measure: panel title}.

    Returns:
        SVG text; bars are standard deviations over seeds.
    """
    schemes = [name for name in dict.fromkeys(row["scheme"] for row in summary) if name not in levels]
    looks = {name: {"color": COLOURS[i], "marker": MARKERS[i]} for i, name in enumerate(schemes)}
    slices = sorted({num_slices for _, num_slices in histories})
    with matplotlib.rc_context(RC):
        figure, (*panels, last) = make_panels(len(measures) + 1, height=3.4)
        for axes, (measure, title) in zip(panels, measures.items(), strict=True):
            for scheme, look in looks.items():
                _against_slices(axes, [row for row in summary if row["scheme"] == scheme], measure, look)
            for index, row in enumerate(row for row in summary if row["scheme"] in levels):
                if row[f"{measure}_mean"] is not None:
                    axes.axhline(row[f"{measure}_mean"], color=GREY, linestyle=DASHES[index + 1], linewidth=1.2)
            ticks = sorted({row["num_slices"] for row in summary if row["num_slices"]})
            axes.set_xscale("log", base=2)
            axes.set_xticks(ticks, [f"{tick}" for tick in ticks])
            axes.minorticks_off()
            log_y_axis(axes)
            low, high = axes.get_ylim()
            if high > 1000 * low:
                axes.yaxis.set_major_locator(LogLocator())  # one label a decade; more would touch
            axes.set(title=title, xlabel="S, directions a step")
        for (scheme, num_slices), curve in histories.items():
            last.plot(*zip(*curve, strict=True), linestyle=DASHES[slices.index(num_slices)], **looks[scheme])
        last.set(title="never trained on, while descending", xlabel="steps done")
        _log_x(last)
        log_y_axis(last)
        panels[0].set_ylabel("SIGReg")
        handles = [legend_line(labels[name], look["color"], "-", look["marker"]) for name, look in looks.items()]
        handles += [legend_line(labels[name], GREY, DASHES[i + 1]) for i, name in enumerate(levels)]
        handles += [legend_line(f"S = {num}", INK, DASHES[i]) for i, num in enumerate(slices)]
        add_legend(figure, handles)
        return to_svg(figure, "directions kept against directions drawn at every step")


def _log_x(axes: Any) -> None:
    """Make the x axis logarithmic with plain numbers on it (the default writes powers as mathematics)."""
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _against_slices(axes: Any, rows: Sequence[Row], measure: str, look: Mapping[str, Any]) -> None:
    mean, std = [row[f"{measure}_mean"] for row in rows], [row[f"{measure}_std"] or 0 for row in rows]
    axes.errorbar([row["num_slices"] for row in rows], mean, yerr=std if any(std) else None, elinewidth=0.9, **look)
