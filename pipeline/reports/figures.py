"""The figures of the report, as SVG text with equal bytes for equal input, and the look that all figures share.

Only modules called figures*.py import matplotlib.

Text stays text (small files, the reader's own font), and ink is `currentColor`, so that a figure follows the light or
dark page it stands in. Each figure also carries its own style, for being opened alone.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from xml.sax.saxutils import quoteattr

import matplotlib
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, NullLocator, StrMethodFormatter

# Ten hues of similar lightness that read on white and on near-black; a zoo beyond ten repeats them with other markers.
COLOURS = ["#3f7fd9", "#e07b39", "#2c9f6b", "#b45bc9", "#d24d63", "#2aa0b4", "#b39317", "#8d715c", "#6e78e0", "#7c8896"]
MARKERS = "osD^vPX*<>"
DASHES = ["-", (0, (4, 2)), (0, (1, 1.6)), (0, (5, 1.5, 1, 1.5)), (0, (8, 2)), (0, (2, 3))]
INK = "#1b2431"
FONTS = "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif"
STYLE = (
    "<style>.chart{color:#1b2431;background:#fff}"
    "@media (prefers-color-scheme:dark){.chart{color:#dbe2ea;background:#10151c}}"
    ".chart *{stroke-linejoin:round;stroke-linecap:butt}</style>"
)
RC = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # a data set may be called a$b$c
    "font.size": 9.5,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#8a94a1",
    "axes.linewidth": 0.8,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#8a94a1",
    "grid.alpha": 0.25,
    "grid.linewidth": 0.6,
    "xtick.color": "#8a94a1",
    "ytick.color": "#8a94a1",
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "text.color": INK,
    "axes.labelcolor": INK,
    "legend.frameon": False,
    "lines.linewidth": 1.7,
    "lines.markersize": 5,
}


def comparison(
    rows: Sequence[Mapping[str, Any]], curves: Sequence[Mapping[str, Any]], scores: Mapping[str, str]
) -> dict[str, str]:
    """Draw everything the comparison shows.

    Args:
        rows: rows of `tables.summarise`.
        curves: entries of `tables.histories`.
        scores: label of each score.

    Returns:
        SVG text under `accuracy-<data set>` and `curves-<data set>`.
    """
    charts = {}
    for dataset in dict.fromkeys(row["dataset"] for row in rows):
        charts[f"accuracy-{dataset}"] = accuracy_against_lambda([r for r in rows if r["dataset"] == dataset], scores)
        mine = [curve for curve in curves if curve["dataset"] == dataset]
        if any(not curve["collapsed"] for curve in mine):
            charts[f"curves-{dataset}"] = loss_curves(mine)
    return charts


def accuracy_against_lambda(rows: Sequence[Mapping[str, Any]], scores: Mapping[str, str]) -> str:
    """Draw one data set: a panel per score, a line per backbone, its random initialisation dotted in the same colour.

    Args:
        rows: rows of `tables.summarise` for one data set.
        scores: label of each score to draw, e.g. {"linear_top1": "linear"}.

    Returns:
        SVG text. Bars are `<score>_std`; a grey dashed line is the probe on raw pixels; cells that collapsed are not
        drawn but counted.
    """
    with matplotlib.rc_context(RC):
        figure, panels = make_panels(len(scores), height=2.9)
        looks = backbone_looks(row["backbone"] for row in rows)
        for axes, (score, label) in zip(panels, scores.items(), strict=True):
            for backbone, look in looks.items():
                _accuracy_line(axes, [row for row in rows if row["backbone"] == backbone], score, look)
            pixels = [row[f"raw_pixels_{score}"] for row in rows if row.get(f"raw_pixels_{score}") is not None]
            if pixels:
                axes.axhline(100 * pixels[0], color="#8a94a1", linestyle=DASHES[1], linewidth=1.2)
            _lambda_axis(axes, sorted({row["lambda"] for row in rows}))
            axes.set_title(label)
        panels[0].set_ylabel("top-1, %")
        handles = [
            *_handles(looks),
            legend_line("random init", "#8a94a1", DASHES[2]),
            legend_line("raw pixels", "#8a94a1", DASHES[1]),
            *_left_out(sum(row["num_collapsed"] for row in rows)),
        ]
        add_legend(figure, handles)
        return to_svg(figure, f"accuracy {rows[0]['dataset']}")


def _accuracy_line(axes: Any, rows: Sequence[Mapping[str, Any]], score: str, look: dict) -> None:
    rows = sorted((row for row in rows if row.get(score) is not None), key=lambda row: row["lambda"])
    lambdas = [row["lambda"] for row in rows]
    bars = [100 * (row.get(f"{score}_std") or 0) for row in rows]
    axes.errorbar(lambdas, [100 * row[score] for row in rows], yerr=bars if any(bars) else None, elinewidth=0.9, **look)
    random_init = [
        (row["lambda"], 100 * row[f"random_init_{score}"]) for row in rows if row.get(f"random_init_{score}")
    ]
    if random_init:
        axes.plot(*zip(*random_init, strict=True), color=look["color"], linestyle=DASHES[2], linewidth=1.3)


def _lambda_axis(axes: Any, lambdas: Sequence[float]) -> None:
    if min(lambdas) > 0 and len(lambdas) > 1:
        axes.set_xscale("log")
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_minor_formatter(NullFormatter())
    step = max(1, -(-len(lambdas) // 5))  # more than five labels would touch
    axes.set_xticks(lambdas[::step], [f"{value:g}" for value in lambdas[::step]])
    axes.margins(x=0.12)
    axes.set_xlabel("λ")


def loss_curves(histories: Sequence[Mapping[str, Any]]) -> str:
    """Draw the loss of one data set's cells by epoch: total, prediction and SIGReg.

    Args:
        histories: entries of `tables.histories` for one data set.

    Returns:
        SVG text; colour tells the backbone, the dash pattern lambda. Cells that collapsed are not drawn but counted.
    """
    lambdas = sorted({curve["lambda"] for curve in histories})
    looks = backbone_looks(curve["backbone"] for curve in histories)
    sound = [curve for curve in histories if not curve["collapsed"]]
    with matplotlib.rc_context(RC):
        figure, panels = make_panels(3, height=2.7)
        width = 1.5 if len(histories) <= 24 else 0.7
        titles = {"loss": "total", "pred_loss": "prediction", "sigreg_loss": "SIGReg"}
        for axes, (column, title) in zip(panels, titles.items(), strict=True):
            for curve in sound:
                dash = DASHES[lambdas.index(curve["lambda"]) % len(DASHES)]
                colour = looks[curve["backbone"]]["color"]
                axes.plot(curve["epoch"], curve[column], color=colour, linestyle=dash, linewidth=width)
            if spans_decades([value for curve in sound for value in curve[column]]):
                log_y_axis(axes)
            axes.set_title(title)
            axes.set_xlabel("epoch")
            axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
        panels[0].set_ylabel("loss")
        swatches = [legend_line(name, look["color"], "-") for name, look in looks.items()]
        swatches += [legend_line(f"λ = {v:g}", "#8a94a1", DASHES[i % len(DASHES)]) for i, v in enumerate(lambdas)]
        add_legend(figure, swatches + _left_out(len(histories) - len(sound)))
        return to_svg(figure, f"loss curves {histories[0]['dataset']}")


def log_y_axis(axes: Any) -> None:
    """Make the y axis logarithmic with plain numbers on it (the default writes powers as mathematics)."""
    axes.set_yscale("log")
    _plain_decades(axes.yaxis)


def log_x_axis(axes: Any) -> None:
    """Make the x axis logarithmic with plain numbers on it."""
    axes.set_xscale("log")
    _plain_decades(axes.xaxis)


def _plain_decades(axis: Any) -> None:
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


def legend_line(label: str, colour: str, dash: Any, marker: str = "") -> Line2D:
    """Make an entry of a legend."""
    return Line2D([], [], color=colour, linestyle=dash, marker=marker, label=label)


def _handles(looks: Mapping[str, dict]) -> list[Line2D]:
    return [legend_line(name, look["color"], "-", look["marker"]) for name, look in looks.items()]


def _left_out(num_collapsed: int) -> list[Line2D]:
    """Make the entry of a legend that tells how many cells are not drawn; none if all are."""
    cells = f"{num_collapsed} collapsed cell{'s' * (num_collapsed != 1)}"
    return [legend_line(f"{cells} left out", "none", "None")] if num_collapsed else []


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
