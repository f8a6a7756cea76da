"""The figures of the comparison: accuracy against lambda, and loss curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, NullFormatter, NullLocator

from pipeline.reports.figures import (
    DASHES,
    GREY,
    add_legend,
    backbone_looks,
    curve_looks,
    drawing,
    legend_line,
    log_axis,
    make_panels,
    spans_decades,
    to_svg,
)

CELL = ["backbone", "lambda", "seed"]
TITLES = {"loss": "total", "pred_loss": "prediction", "sigreg_loss": "SIGReg"}  # others are named as the column is


def comparison(rows: pd.DataFrame, curves: pd.DataFrame, scores: Mapping[str, str]) -> dict[str, str]:
    """Draw everything the comparison shows.

    Args:
        rows: of `tables.summarise`.
        curves: of `tables.histories`.
        scores: label of each score.

    Returns:
        SVG text under `accuracy-<data set>` and `curves-<data set>`.
    """
    charts = {}
    for dataset, group in rows.groupby("dataset", sort=False):
        charts[f"accuracy-{dataset}"] = accuracy_against_lambda(group, scores)
        mine = curves[curves["dataset"] == dataset]
        if not mine["collapsed"].all():
            charts[f"curves-{dataset}"] = loss_curves(mine)
    return charts


def accuracy_against_lambda(rows: pd.DataFrame, scores: Mapping[str, str]) -> str:
    """Draw one data set: a panel per score, a line per backbone, its random initialisation dotted in the same colour.

    Args:
        rows: of `tables.summarise` for one data set.
        scores: label of each score to draw, e.g. {"linear_top1": "linear"}.

    Returns:
        SVG text. Bars are `<score>_std`; a grey dashed line is the probe on raw pixels; cells that collapsed are not
        drawn but counted.
    """
    with drawing():
        figure, panels = make_panels(len(scores), height=2.9)
        looks = backbone_looks(rows["backbone"])
        for axes, (score, label) in zip(panels, scores.items(), strict=True):
            for backbone, group in rows.sort_values("lambda").groupby("backbone", sort=False):
                _accuracy_line(axes, group, score, looks[backbone])
            for pixels in rows.get(f"raw_pixels_{score}", pd.Series(dtype=float)).dropna()[:1]:
                axes.axhline(100 * pixels, color=GREY, linestyle=DASHES[1], linewidth=1.2)
            _lambda_axis(axes, sorted(set(rows["lambda"])))
            axes.set_title(label)
        panels[0].set_ylabel("top-1, %")
        handles = [legend_line(name, look["color"], "-", look["marker"]) for name, look in looks.items()]
        handles += [legend_line("random init", GREY, DASHES[2]), legend_line("raw pixels", GREY, DASHES[1])]
        add_legend(figure, handles + _left_out(int(rows["num_collapsed"].sum())))
        return to_svg(figure, f"accuracy {rows['dataset'].iloc[0]}")


def _accuracy_line(axes: Any, rows: pd.DataFrame, score: str, look: dict) -> None:
    learned = rows.dropna(subset=[score])
    bars = 100 * learned.get(f"{score}_std", 0 * learned[score]).fillna(0)
    axes.errorbar(learned["lambda"], 100 * learned[score], yerr=bars if bars.any() else None, elinewidth=0.9, **look)
    if f"random_init_{score}" in rows:
        initial = rows.dropna(subset=[f"random_init_{score}"])
        line = {"color": look["color"], "linestyle": DASHES[2], "linewidth": 1.3}
        axes.plot(initial["lambda"], 100 * initial[f"random_init_{score}"], **line)


def _lambda_axis(axes: Any, lambdas: Sequence[float]) -> None:
    if min(lambdas) > 0 and len(lambdas) > 1:
        axes.set_xscale("log")
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_minor_formatter(NullFormatter())
    step = max(1, -(-len(lambdas) // 5))  # more than five labels would touch
    axes.set_xticks(lambdas[::step], [f"{value:g}" for value in lambdas[::step]])
    axes.margins(x=0.12)
    axes.set_xlabel("λ")


def loss_curves(curves: pd.DataFrame) -> str:
    """Draw the loss of one data set's cells by epoch: a panel for the total and for each of its parts.

    Args:
        curves: of `tables.histories` for one data set.

    Returns:
        SVG text; colour tells the backbone, the dash pattern lambda. Cells that collapsed are not drawn but counted.
    """
    cells, sound = (dict(list(found.groupby(CELL, sort=False))) for found in (curves, curves[~curves["collapsed"]]))
    looks, legend = curve_looks([(backbone, lamb) for backbone, lamb, _ in cells])
    by_cell = dict(zip(cells, looks, strict=True))
    columns = [name for name in curves.dropna(axis="columns", how="all") if name == "loss" or name.endswith("_loss")]
    with drawing():
        figure, panels = make_panels(len(columns), height=2.7)
        for axes, column in zip(panels, columns, strict=True):
            for cell, curve in sound.items():
                axes.plot(curve["epoch"], curve[column], **by_cell[cell])
            if spans_decades(curves.loc[~curves["collapsed"], column].dropna()):
                log_axis(axes, "y")
            axes.set_title(TITLES.get(column, column.removesuffix("_loss").replace("_", " ")))
            axes.set_xlabel("epoch")
            axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
        panels[0].set_ylabel("loss")
        add_legend(figure, legend + _left_out(len(cells) - len(sound)))
        return to_svg(figure, f"loss curves {curves['dataset'].iloc[0]}")


def _left_out(num_collapsed: int) -> list[Line2D]:
    """Make the entry of a legend that tells how many cells are not drawn; none if all are."""
    cells = f"{num_collapsed} collapsed cell{'s' * (num_collapsed != 1)}"
    return [legend_line(f"{cells} left out", "none", "None")] if num_collapsed else []
