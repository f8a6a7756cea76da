"""The look that all figures share: SVG text with equal bytes for equal input.

    with figures.drawing():                     # report.mplstyle: fonts, grid, ink; every colour of the project
        figure, panels = figures.make_panels(2, height=3.1)
        panels[0].plot(x, y, color=figures.COLOURS[0], linestyle=figures.DASHES[0])
        figures.add_legend(figure, [figures.legend_line("ours", figures.GREY, "-", "o")])
        return figures.to_svg(figure, "what a reader who does not see it is told")

Text stays text (small files, the reader's own font), and ink is `currentColor`, so that a figure follows the light or
dark page it stands in. Each figure also carries its own style, for being opened alone. Only modules called figures*
import matplotlib.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

import matplotlib
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

RC = matplotlib.rc_params_from_file(Path(__file__).with_name("report.mplstyle"), use_default_template=False)
COLOURS = RC["axes.prop_cycle"].by_key()["color"]  # a zoo beyond ten repeats them with other markers
INK, GREY = RC["text.color"], RC["grid.color"]
MARKERS = "osD^vPX*<>"
DASHES = ["-", (0, (4, 2)), (0, (1, 1.6)), (0, (5, 1.5, 1, 1.5)), (0, (8, 2)), (0, (2, 3))]
MANY_LINES = 24  # more are drawn thin
FONTS = "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif"
STYLE = (
    "<style>.chart{color:#1b2431;background:#fff}"
    "@media (prefers-color-scheme:dark){.chart{color:#dbe2ea;background:#10151c}}"
    ".chart *{stroke-linejoin:round;stroke-linecap:butt}</style>"
)


def drawing(**changes: Any) -> AbstractContextManager[None]:
    """Enter the style of the project; `changes` are rc parameters with _ for dots, e.g. font_size=8."""
    return matplotlib.rc_context({**RC, **{name.replace("_", "."): value for name, value in changes.items()}})


def log_axis(axes: Any, which: str) -> None:
    """Make the x or the y axis logarithmic with plain numbers on it (the default writes powers as mathematics)."""
    axes.set(**{f"{which}scale": "log"})
    axis = getattr(axes, f"{which}axis")
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.set_minor_locator(NullLocator())


def spans_decades(values: Sequence[float]) -> bool:
    """Tell whether a logarithmic axis helps: values above zero that differ twentyfold."""
    return min(values, default=0) > 0 and max(values) > 20 * min(values)


def make_panels(count: int, height: float) -> tuple[Figure, list[Any]]:
    """Make a figure with `count` panels, four to a row at most, `height` inches each."""
    columns = min(count, 4)
    num_rows = -(-count // columns)
    width = {1: 5.2, 2: 8.4}.get(columns, 11.6)
    figure = Figure(figsize=(width, height * num_rows + 0.3), layout="constrained")
    panels = figure.subplots(num_rows, columns, squeeze=False).ravel().tolist()
    for unused in panels[count:]:
        unused.remove()
    return figure, panels[:count]


def backbone_looks(backbones: Iterable[str]) -> dict[str, dict]:
    """Give each backbone, in order of appearance, a colour and a marker that no other has."""
    names = list(dict.fromkeys(backbones))
    return {
        name: {"color": COLOURS[i % len(COLOURS)], "marker": MARKERS[i // len(COLOURS) % len(MARKERS)]}
        for i, name in enumerate(names)
    }


def curve_looks(cells: Sequence[tuple[str, float | None]]) -> tuple[list[dict[str, Any]], list[Line2D]]:
    """Give each cell, its backbone and lambda, the look of a curve; colour tells the backbone, dashes lambda.

    Returns:
        The looks, solid where lambda is None and thin where there are many, and a legend.
    """
    backbones, lambdas = list(dict.fromkeys(name for name, _ in cells)), sorted({lamb for _, lamb in cells} - {None})
    colours = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(backbones)}
    dashes = {lamb: DASHES[i % len(DASHES)] for i, lamb in enumerate(lambdas)}
    width = 1.5 if len(cells) <= MANY_LINES else 0.7
    looks = [{"color": colours[name], "linestyle": dashes.get(lamb, "-"), "linewidth": width} for name, lamb in cells]
    legend = [legend_line(name, colour, "-") for name, colour in colours.items()]
    return looks, legend + [legend_line(f"λ = {lamb:g}", GREY, dash) for lamb, dash in dashes.items()]


def legend_line(label: str, colour: str, dash: Any, marker: str = "") -> Line2D:
    """Make an entry of a legend."""
    return Line2D([], [], color=colour, linestyle=dash, marker=marker, label=label)


def add_legend(figure: Figure, handles: Sequence[Line2D]) -> None:
    """Put a legend under the panels, as many columns as fit."""
    width = figure.get_size_inches()[0]
    columns = max(1, min(len(handles), int(width / 1.75)))
    figure.legend(handles=handles, loc="outside lower left", ncols=columns, handlelength=2.2, columnspacing=1.6)


def to_svg(figure: Figure, title: str) -> str:
    """Write a figure as SVG: no date, ids from a fixed salt, ids that nothing refers to removed."""
    buffer = io.StringIO()
    # The salt differs by figure, so that clip paths of two figures in one page do not share an id.
    with matplotlib.rc_context({"svg.hashsalt": title}):
        figure.savefig(
            buffer, format="svg", transparent=True, metadata=dict.fromkeys(["Date", "Creator", "Format", "Type"])
        )
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :].replace(INK, "currentColor")
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    svg = re.sub(r"<style[^>]*>.*?</style>", STYLE, svg, count=1, flags=re.DOTALL)
    svg = re.sub(r"(?<=px )'DejaVu Sans'[^;\"]*|(?<=font-family: )[^;\"]*", FONTS, svg)
    return svg.replace("<svg ", f'<svg class="chart" role="img" aria-label={quoteattr(title)} ', 1)
