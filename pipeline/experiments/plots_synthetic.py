"""Charts of the pipelines without data: figures 3 and 20 and table 6 of the paper, in the style of reports.figures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import groupby
from operator import attrgetter
from statistics import mean, stdev
from typing import Any

import torch

from pipeline.reports import figures
from pipeline.reports.figures import COLOURS, DASHES, MARKERS

GREY = "#8a94a1"
SHOWN_DRAWS = 100
PROBE_COLOURS = dict(zip(("OLS", "ridge", "logistic"), COLOURS, strict=False))
Line = tuple[Sequence[float], Sequence[float]]  # x, y


def bias_variance(rows: Sequence[Any]) -> str:
    """Draw squared bias, variance and turn of the direction against the condition number, a line per probe.

    Args:
        rows: of `anisotropy.measure`.

    Returns:
        SVG text; bars are standard deviations over seeds, dashed lines closed forms.
    """
    columns = {
        "squared_bias": "squared bias",
        "variance": "variance",
        "direction_std_deg": "turn of the direction, degrees",
    }
    numbers = sorted({row.condition_number for row in rows})
    with figures.matplotlib.rc_context(figures.RC):
        figure, panels = figures.make_panels(len(columns), height=2.9)
        for axes, (column, title) in zip(panels, columns.items(), strict=True):
            for probe, colour in PROBE_COLOURS.items():
                mine = [row for row in rows if row.probe == probe]
                found = _by_number(mine, column)
                means, stds = [mean(values) for values in found], [stdev(values) for values in found]
                axes.errorbar(numbers, means, stds, color=colour, marker="o", elinewidth=0.9)
                if column != "direction_std_deg" and probe != "logistic":
                    exact = _by_number(mine, f"{column}_closed_form")
                    axes.plot(numbers, [mean(values) for values in exact], color=GREY, linestyle=DASHES[1], zorder=3)
            _log_x(axes, numbers)
            axes.set_title(title)
            axes.set_xlabel("condition number")
        figures.log_y_axis(panels[1])
        handles = [figures.legend_line(probe, colour, "-", "o") for probe, colour in PROBE_COLOURS.items()]
        figures.add_legend(figure, [*handles, figures.legend_line("closed form", GREY, DASHES[1])])
        return figures.to_svg(figure, "bias and variance of probes against the condition number")


def _by_number(rows: Sequence[Any], column: str) -> list[list[float]]:
    """Values of a column over seeds, a list per condition number, rising."""
    by_number = attrgetter("condition_number")
    return [[getattr(row, column) for row in group] for _, group in groupby(sorted(rows, key=by_number), by_number)]


def boundaries(fits: Mapping[float, Any]) -> str:
    """Draw embeddings and the decision boundaries of logistic probes fitted to many draws of the labels.

    Args:
        fits: `anisotropy.Fits` of the logistic probe, by condition number.

    Returns:
        SVG text; a panel per condition number, the true boundary dashed.
    """
    with figures.matplotlib.rc_context(figures.RC):
        figure, panels = figures.make_panels(len(fits), height=3.6)
        for axes, (number, (embeddings, coefficients, truth)) in zip(panels, fits.items(), strict=True):
            axes.scatter(*embeddings.T.tolist(), s=7, color=GREY, linewidths=0)
            for normal in coefficients[:SHOWN_DRAWS]:
                _boundary(axes, normal, color=COLOURS[0], linewidth=0.6, alpha=0.35)
            _boundary(axes, truth, color=figures.INK, linewidth=1.8, linestyle=DASHES[1])
            axes.set(xlim=(-4.5, 4.5), ylim=(-4.5, 4.5), aspect="equal", title=_shape(number))
        shown = min(SHOWN_DRAWS, len(next(iter(fits.values())).coefficients))
        fitted = figures.legend_line(f"fitted, {shown} draws", COLOURS[0], "-")
        figures.add_legend(figure, [fitted, figures.legend_line("true boundary", figures.INK, DASHES[1])])
        return figures.to_svg(figure, "decision boundaries of logistic probes")


def coefficients(fits: Mapping[float, Mapping[str, Any]]) -> str:
    """Draw the fitted coefficients of OLS and ridge over many draws of the labels, and the true ones.

    Args:
        fits: of `anisotropy.fit_probes`, by condition number.

    Returns:
        SVG text; a panel per condition number, with equal axes.
    """
    shown = ("OLS", "ridge")
    clouds = [by_probe[probe].coefficients[:SHOWN_DRAWS] for by_probe in fits.values() for probe in shown]
    centre = next(iter(fits.values()))["OLS"].truth
    reach = 1.1 * (torch.cat(clouds) - centre).abs().max().item()
    x, y = centre.tolist()
    with figures.matplotlib.rc_context(figures.RC):
        figure, panels = figures.make_panels(len(fits), height=3.6)
        for axes, (number, by_probe) in zip(panels, fits.items(), strict=True):
            for probe in shown:
                points = by_probe[probe].coefficients[:SHOWN_DRAWS].T.tolist()
                axes.scatter(*points, s=9, color=PROBE_COLOURS[probe], alpha=0.6, linewidths=0)
            axes.plot(x, y, "P", color=figures.INK, markersize=8)
            axes.set(xlim=(x - reach, x + reach), ylim=(y - reach, y + reach), aspect="equal", title=_shape(number))
        handles = [figures.legend_line(probe, PROBE_COLOURS[probe], "none", "o") for probe in shown]
        figures.add_legend(figure, [*handles, figures.legend_line("truth", figures.INK, "none", "P")])
        return figures.to_svg(figure, "fitted coefficients of OLS and ridge")


def _shape(number: float) -> str:
    return "isotropic" if number == 1 else f"condition number {number:g}"


def _boundary(axes: Any, normal: torch.Tensor, **look: Any) -> None:
    x, y = normal.tolist()
    length = 10 / math.hypot(x, y)
    axes.plot([-y * length, y * length], [x * length, -x * length], **look)


def quadrature_errors(panels_by_t_max: Mapping[float, Mapping[str, Line]], floor: float) -> str:
    """Draw the relative error of the trapezoid rule against the knots.

    Args:
        panels_by_t_max: (knots, relative errors) by law, for each panel; every panel has the same laws.
        floor: smaller errors are drawn there.

    Returns:
        SVG text; the dashed grey line falls quadratically.
    """
    laws = list(next(iter(panels_by_t_max.values())))
    looks = {law: (COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)]) for i, law in enumerate(laws)}
    with figures.matplotlib.rc_context(figures.RC):
        figure, panels = figures.make_panels(len(panels_by_t_max), height=3.2)
        for axes, (t_max, lines) in zip(panels, panels_by_t_max.items(), strict=True):
            for law, (knots, errors) in lines.items():
                colour, marker = looks[law]
                axes.plot(knots, [max(error, floor) for error in errors], color=colour, marker=marker)
            axes.plot(knots, [1 / (k - 1) ** 2 for k in knots], color=GREY, linestyle=DASHES[1])
            _log_x(axes, knots)
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter("{x:g}")  # plain numbers: the default writes powers as mathematics
            axes.minorticks_off()
            axes.set(title=f"t_max = {t_max:g}", xlabel="knots on [0, t_max]", ylim=(floor / 3, 3))
        panels[0].set_ylabel("relative error")
        handles = [figures.legend_line(law, colour, "-", marker) for law, (colour, marker) in looks.items()]
        figures.add_legend(figure, [*handles, figures.legend_line("quadratic", GREY, DASHES[1])])
        return figures.to_svg(figure, "error of the trapezoid rule against knots")


def sigreg_times(panels_by_axis: Mapping[str, Mapping[str, Line]]) -> str:
    """Draw milliseconds against samples, slices and knots, both axes logarithmic.

    Args:
        panels_by_axis: (counts, milliseconds) by name of the line, for each panel; every panel has the same lines, and
            the first is continued linearly as a dashed guide.

    Returns:
        SVG text.
    """
    names = list(next(iter(panels_by_axis.values())))
    looks = dict(zip(names, zip(COLOURS, MARKERS, strict=False), strict=False))
    with figures.matplotlib.rc_context(figures.RC):
        figure, panels = figures.make_panels(len(panels_by_axis), height=2.9)
        for axes, (axis, lines) in zip(panels, panels_by_axis.items(), strict=True):
            for name, (counts, milliseconds) in lines.items():
                colour, marker = looks[name]
                axes.plot(counts, milliseconds, color=colour, marker=marker)
            counts, milliseconds = lines[names[0]]
            axes.plot(counts, [milliseconds[0] * n / counts[0] for n in counts], color=GREY, linestyle=DASHES[1])
            _log_x(axes, max((counts for counts, _ in lines.values()), key=len))
            figures.log_y_axis(axes)
            axes.set_xlabel(axis)
        panels[0].set_ylabel("milliseconds")
        handles = [figures.legend_line(name, colour, "-", marker) for name, (colour, marker) in looks.items()]
        figures.add_legend(figure, [*handles, figures.legend_line("linear", GREY, DASHES[1])])
        return figures.to_svg(figure, "time of SIGReg against samples, slices and knots")


def _log_x(axes: Any, ticks: Sequence[float]) -> None:
    axes.set_xscale("log")
    axes.minorticks_off()
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
