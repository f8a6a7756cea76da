"""Charts of the experiments in the style of pipeline.reports.figures: panels of lines, each line with a look.

A chart is data: the reports say which lines stand in which panel, and `chart` draws them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from pipeline.reports.figures import (
    COLOURS,
    DASHES,
    GREY,
    INK,
    MARKERS,
    add_legend,
    drawing,
    legend_line,
    log_axis,
    to_svg,
)

Look = Mapping[str, Any]
GUIDE: Look = {"color": GREY, "linestyle": DASHES[1], "linewidth": 1.2, "zorder": 3}
TRUTH: Look = {"color": INK, "linestyle": DASHES[1], "linewidth": 1.8}


class Line(NamedTuple):
    """One line or cloud of a panel: x, y, how it looks, and standard deviations (of x where the panel has names)."""

    x: Sequence[float]
    y: Sequence[float]
    look: Look
    std: Sequence[float] | None = None


class Panel(NamedTuple):
    """One panel of a chart.

    Attributes:
        title, lines, xlabel: what it shows.
        ticks: numbers on the x axis, which is then logarithmic; empty for a linear one.
        log_x, log_y: logarithmic axes.
        square: (low, high) of x and of y, drawn at equal scales; None leaves both to the lines.
        names: what y = 0, 1, 2 ... stands for, from the top.
        band: x from and to, shaded.
    """

    title: str
    lines: Sequence[Line]
    xlabel: str = ""
    ticks: Sequence[float] = ()
    log_x: bool = False
    log_y: bool = False
    square: tuple[tuple[float, float], tuple[float, float]] | None = None
    names: Sequence[str] = ()
    band: tuple[float, float] | None = None


def look(index: int, **changes: Any) -> dict[str, Any]:
    """Return the look of the index-th line: a colour, a marker, a solid line; `changes` replace parts of it."""
    return {"color": COLOURS[index % len(COLOURS)], "marker": MARKERS[index % len(MARKERS)], "linestyle": "-"} | changes


def dots(colour: str, size: float = 3, alpha: float = 0.6) -> dict[str, Any]:
    """Return the look of a cloud of points."""
    return {
        "color": colour,
        "marker": "o",
        "linestyle": "none",
        "markersize": size,
        "alpha": alpha,
        "markeredgewidth": 0,
    }


def chart(
    title: str,
    panels: Sequence[Panel],
    *,
    legend: Mapping[str, Look] | None = None,
    ylabel: str = "",
    columns: int = 4,
    height: float = 3.0,
) -> str:
    """Draw panels side by side.

    Args:
        title: what the chart is called where it cannot be seen.
        panels: one or more.
        legend: the look of every name that the chart explains.
        ylabel: of the first panel of each row.
        columns: panels in a row, at most.
        height: of a panel, inches.

    Returns:
        SVG text.
    """
    columns = min(columns, len(panels))
    num_rows = -(-len(panels) // columns)
    width = {1: 5.2, 2: 8.4}.get(columns, 11.6)
    with drawing():
        figure = Figure(figsize=(width, height * num_rows + 0.3), layout="constrained")
        places = figure.subplots(num_rows, columns, squeeze=False).ravel().tolist()
        for axes, panel in zip(places, panels, strict=False):
            _draw(axes, panel)
        for unused in places[len(panels) :]:
            unused.remove()
        for axes in places[: len(panels) : columns]:
            axes.set_ylabel(ylabel)
        if legend:
            handles = [(name, one["color"], one["linestyle"], one.get("marker", "")) for name, one in legend.items()]
            add_legend(figure, [legend_line(*handle) for handle in handles])
        return to_svg(figure, title)


def _draw(axes: Any, panel: Panel) -> None:
    if panel.band:
        axes.axvspan(*panel.band, color=GREY, alpha=0.25, linewidth=0)
    for line in panel.lines:
        errors = {"xerr" if panel.names else "yerr": line.std}
        axes.errorbar(line.x, line.y, **errors, elinewidth=0.9, **line.look)
    axes.set(title=panel.title, xlabel=panel.xlabel)
    if panel.ticks or panel.log_x:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))  # the default writes powers as mathematics
        axes.xaxis.set_minor_formatter(NullFormatter())
    if panel.ticks:
        axes.minorticks_off()
        axes.set_xticks(panel.ticks, [f"{tick:g}" for tick in panel.ticks])
    if panel.log_y:
        log_axis(axes, "y")
        low, high = axes.get_ylim()
        if high > 1000 * low:
            axes.yaxis.set_major_locator(LogLocator())  # one label a decade; more would touch
    if panel.square:
        axes.set(xlim=panel.square[0], ylim=panel.square[1], aspect="equal")
    if panel.names:
        axes.set_yticks(range(len(panel.names)), panel.names)
        axes.invert_yaxis()
