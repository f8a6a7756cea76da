"""The figures of in-domain against foreign images, in the style of pipeline/reports/figures.py."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from pipeline.density.methods import METHODS, Scores
from pipeline.reports.figures import COLOURS, DASHES, GREY, add_legend, drawing, legend_line, make_panels, to_svg

SHOWN = ("jepa_score", "random_init_jepa_score", "knn_distance", "mahalanobis")
NUM_BINS = 40
# One colour for each kind of method: Jacobian, embedding, pixels.
KINDS = {"Jacobian": COLOURS[0], "embedding": COLOURS[1], "pixels": COLOURS[2]}


def histograms(name: str, home: str, scores: Mapping[str, Scores]) -> str:
    """Draw how the scores of one encoder are distributed: a panel for each method of SHOWN, a line for each data set.

    Args:
        name: of the encoder.
        home: its in-domain set, which is filled.
        scores: by data set.

    Returns:
        SVG text. The most extreme half percent on each side is left out.
    """
    order = [home, *(scored for scored in scores if scored != home)]
    looks = {scored: {"color": COLOURS[i % 10], "linestyle": DASHES[i % len(DASHES)]} for i, scored in enumerate(order)}
    with drawing():
        figure, panels = make_panels(len(SHOWN), height=2.5)
        for axes, method in zip(panels, SHOWN, strict=True):
            values = {scored: scores[scored].values[method] for scored in order}
            low, high = np.quantile(np.concatenate(list(values.values())), [0.005, 0.995])
            edges = np.linspace(low, high if high > low else low + 1, NUM_BINS + 1)
            for scored, look in looks.items():
                shares = 100 * np.histogram(values[scored], edges)[0] / len(values[scored])
                axes.stairs(shares, edges, linewidth=1.4, **look)
                if scored == home:
                    axes.stairs(shares, edges, color=look["color"], fill=True, alpha=0.25)
            axes.set_title(METHODS[method].label)
            axes.set_xlabel("high: typical" if METHODS[method].sign > 0 else "low: typical")
        panels[0].set_ylabel("images a bin, %")
        names = {scored: f"{scored} ({'in-domain' if scored == home else 'foreign'})" for scored in order}
        add_legend(figure, [legend_line(names[scored], *look.values()) for scored, look in looks.items()])
        return to_svg(figure, f"scores of {name}")


def areas(table: pd.DataFrame) -> str:
    """Draw the AUROC of every method with its interval: a panel for each pair of in-domain and foreign set.

    Args:
        table: of `separation.auroc_table`.

    Returns:
        SVG text; the dashed line at 50 % is chance.
    """
    pairs = dict(list(table.groupby(["trained", "foreign"], sort=False)))
    places = {method: -i for i, method in enumerate(METHODS)}
    with drawing():
        figure, panels = make_panels(len(pairs), height=2.7)
        for index, (axes, (pair, rows)) in enumerate(zip(panels, pairs.items(), strict=True)):
            axes.axvline(50, color=GREY, linestyle=DASHES[1], linewidth=1.2)
            for method, row in rows.set_index("method").iterrows():
                ends = [[100 * abs(row[end] - row["auroc"])] for end in ("low", "high")]
                look = {"color": KINDS[_kind(method)], "elinewidth": 1}
                axes.errorbar(100 * row["auroc"], places[method], xerr=ends, fmt="o", **look)
            names = [method.label for method in METHODS.values()] if index % min(len(pairs), 4) == 0 else []
            axes.set_yticks(list(places.values()), names or [""] * len(places))
            axes.set(xlim=(-3, 103), ylim=(min(places.values()) - 0.6, 0.6), xlabel="AUROC, %")
            axes.set_title(f"{pair[0]}\nagainst {pair[1]}")
        add_legend(figure, [legend_line(kind, colour, "none", "o") for kind, colour in KINDS.items()])
        return to_svg(figure, "area under the ROC curve")


def _kind(method: str) -> str:
    return "Jacobian" if "jepa" in method else "pixels" if method.startswith("pixel") else "embedding"
