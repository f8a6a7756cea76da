"""Figures of embedding health: eigenvalue spectra, Epps-Pulley against its null distribution, curves over training.

Colour tells the backbone and the dash pattern lambda, as in the loss curves of figures_comparison.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.ticker import MaxNLocator, StrMethodFormatter

from pipeline.reports import figures
from pipeline.reports.figures import GREY

SITES = ("embedding", "projection")
# Site and kind of test, with the title of the panel. Nothing asks an embedding for unit variance, so of it the shape
# alone is shown.
TESTS = {
    ("projection", "raw"): "projection against N(0, 1)",
    ("projection", "standardised"): "projection, shape alone",
    ("embedding", "standardised"): "embedding, shape alone",
}
CURVES = {
    "embedding_norm": "embedding, mean norm",
    "embedding_std": "embedding, standard deviation",
    "embedding_rank": "embedding, RankMe",
    "embedding_isotropy": "embedding, isotropy",
    "projection_norm": "projection, mean norm",
    "projection_std": "projection, standard deviation",
    "projection_rank": "projection, RankMe",
    "projection_isotropy": "projection, isotropy",
    "projection_epps_pulley": "projection, Epps-Pulley",
}
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)  # thin line, thick line, tick
SMALLEST = 1e-7  # relative eigenvalue that is drawn: less is the rounding of float32 embeddings
PLAIN = StrMethodFormatter("{x:g}")

Cell = Mapping[str, Any]


def charts(cells: Sequence[Cell]) -> dict[str, str]:
    """Draw the health of every data set's cells.

    Args:
        cells: one dict a cell with cell (its key), dataset, backbone, lambda, health (what health.json holds) and
            history (rows of `results.read_history`; none for a frozen model).

    Returns:
        SVG text under `spectra-<data set>`, `epps-pulley-<data set>` and, where something was watched during training,
        `health-<data set>`.
    """
    found = {}
    for dataset in dict.fromkeys(cell["dataset"] for cell in cells):
        mine = [cell for cell in cells if cell["dataset"] == dataset]
        found[f"spectra-{dataset}"] = spectra(mine)
        found[f"epps-pulley-{dataset}"] = epps_pulley(mine)
        if any(_curve(cell, name)[0] for cell in mine for name in CURVES):
            found[f"health-{dataset}"] = curves(mine)
    return found


def spectra(cells: Sequence[Cell]) -> str:
    """Draw the eigenvalues of the covariance of one data set's cells, each as a multiple of their mean.

    Args:
        cells: as for `charts`.

    Returns:
        SVG text; a flat line at 1 is an isotropic cloud. Eigenvalues of 0 are not drawn.
    """
    sites = [site for site in SITES if any(site in cell["health"] for cell in cells)]
    with figures.drawing():
        figure, panels = figures.make_panels(len(sites), height=3.2)
        looks, legend = _looks(cells)
        for axes, site in zip(panels, sites, strict=True):
            for cell, look in zip(cells, looks, strict=True):
                if site in cell["health"]:
                    axes.plot(*_relative_spectrum(cell["health"][site]), **look)
            axes.axhline(1, color=GREY, linewidth=0.9)
            axes.set(xscale="log", yscale="log", title=site)
            axes.xaxis.set_major_formatter(PLAIN)
            axes.yaxis.set_major_formatter(PLAIN)
            axes.set_ylim(bottom=max(axes.get_ylim()[0], SMALLEST))
            axes.set_xlabel("rank of the eigenvalue")
        panels[0].set_ylabel("eigenvalue / mean")
        figures.add_legend(figure, legend)
        return figures.to_svg(figure, f"eigenvalue spectra {cells[0]['dataset']}")


def _relative_spectrum(facts: Mapping[str, Any]) -> tuple[list[int], list[float]]:
    values = [value for value in facts["spectrum"] if value]
    mean = sum(values) / facts["dim"]
    return list(range(1, len(values) + 1)), [value / mean for value in values]


def epps_pulley(cells: Sequence[Cell]) -> str:
    """Draw the Epps-Pulley statistic of every slice of one data set's cells as quantiles, beside its null distribution.

    Args:
        cells: as for `charts`; each gets a row.

    Returns:
        SVG text. Thin bar: 5 to 95 % of the slices, thick bar: 25 to 75 %, tick: median. Shaded: the lower 95 % of what
        normal samples give, with their mean as a line; beside the bar the share of slices beyond it.
    """
    tests = {key: title for key, title in TESTS.items() if any(key[0] in cell["health"] for cell in cells)}
    looks, _ = _looks(cells)
    with figures.drawing():
        figure, panels = figures.make_panels(len(tests), height=1.0 + 0.2 * len(cells))
        for axes, ((site, kind), title) in zip(panels, tests.items(), strict=True):
            for row, (cell, look) in enumerate(zip(cells, looks, strict=True)):
                if site in cell["health"]:
                    _strip(axes, row, cell["health"][site]["epps_pulley"][kind], look["color"])
            _cell_axis(axes, cells if axes is panels[0] else [""] * len(cells))
            axes.set_title(title)
            axes.set_xlabel("Epps-Pulley statistic of a slice")
        told = "mean of normal samples; shaded: 95 % of them; percentages: slices beyond those"
        figures.add_legend(figure, [figures.legend_line(told, GREY, "-")])
        return figures.to_svg(figure, f"Epps-Pulley per slice {cells[0]['dataset']}")


def _strip(axes: Any, row: int, facts: Mapping[str, Any], colour: str) -> None:
    axes.fill_betweenx([row - 0.5, row + 0.5], 0, facts["null_q95"], color=GREY, alpha=0.18, linewidth=0)
    axes.plot([facts["null_mean"]] * 2, [row - 0.5, row + 0.5], color=GREY, linewidth=0.9)
    values = [value for value in facts["values"] if value is not None]
    if not values:
        return
    low, first, median, third, high = np.quantile(values, QUANTILES)
    axes.plot([low, high], [row, row], color=colour, linewidth=1.2)
    axes.plot([first, third], [row, row], color=colour, linewidth=4)
    axes.plot([median], [row], marker="|", color=figures.INK, markersize=8, markeredgewidth=1.4)
    share = f"{100 * facts['share_above']:.0f} %" if facts["share_above"] is not None else ""
    axes.annotate(share, (high, row), (4, 0), textcoords="offset points", va="center", fontsize=7.5)


def _cell_axis(axes: Any, cells: Sequence[Any]) -> None:
    axes.set_yticks(range(len(cells)), [_label(cell) if cell else "" for cell in cells], fontsize=8)
    axes.set_ylim(len(cells) - 0.5, -0.5)
    axes.grid(visible=False, axis="y")
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(PLAIN)
    axes.margins(x=0.12)


def curves(cells: Sequence[Cell]) -> str:
    """Draw what was watched after every epoch of one data set's cells.

    Args:
        cells: as for `charts`; those without such columns are left out.

    Returns:
        SVG text, a panel per number.
    """
    names = [name for name in CURVES if any(_curve(cell, name)[0] for cell in cells)]
    looks, legend = _looks(cells)
    with figures.drawing():
        figure, panels = figures.make_panels(len(names), height=2.5)
        for axes, name in zip(panels, names, strict=True):
            for cell, look in zip(cells, looks, strict=True):
                axes.plot(*_curve(cell, name), **look)
            if name == "projection_epps_pulley":
                figures.log_axis(axes, "y")
            axes.set_title(CURVES[name])
            axes.set_xlabel("epoch")
            axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
        figures.add_legend(figure, legend)
        return figures.to_svg(figure, f"health over training {cells[0]['dataset']}")


def _curve(cell: Cell, name: str) -> tuple[list[float], list[float]]:
    """Return epochs and finite values of one number that was watched."""
    rows = [row for row in cell["history"] if np.isfinite(row.get(name, np.nan))]
    return [row["epoch"] for row in rows], [row[name] for row in rows]


def _label(cell: Cell) -> str:
    """Return the cell's key without its data set, e.g. 'test_vit lambda0.1 seed0'."""
    return cell["cell"].removeprefix(f"{cell['dataset']}--").replace("--", " ")


def _looks(cells: Sequence[Cell]) -> tuple[list[dict[str, Any]], list[Any]]:
    return figures.curve_looks([(cell["backbone"], cell["lambda"]) for cell in cells])
