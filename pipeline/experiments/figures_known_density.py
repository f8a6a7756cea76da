"""Charts of the known-density cases, in the style of pipeline.reports.figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean, stdev

from torch import Tensor

from pipeline.reports import figures
from pipeline.reports.figures import COLOURS, DASHES

SHOWN_POINTS = 200  # a panel
GREY = "#8a94a1"


def scatter(panels_by_title: Mapping[str, tuple[Tensor, Tensor]]) -> str:
    """Draw scores against the true log-density, both less their means, a panel per case; the dashed line is equality.

    Args:
        panels_by_title: (log p, score), each (N,).

    Returns:
        SVG text.
    """
    with figures.matplotlib.rc_context(figures.RC):
        figure, panels = figures.make_panels(len(panels_by_title), height=3.1)
        for axes, (title, (log_p, score)) in zip(panels, panels_by_title.items(), strict=True):
            x, y = ((values - values.mean())[:SHOWN_POINTS] for values in (log_p, score))
            axes.scatter(x.tolist(), y.tolist(), s=7, color=COLOURS[0], alpha=0.55, linewidths=0)
            ends = [x.min().item(), x.max().item()]
            axes.plot(ends, ends, color=figures.INK, linestyle=DASHES[1], linewidth=1)
            axes.set_title(title)
            axes.set_xlabel("log p − mean")
        panels[0].set_ylabel("score − mean")
        return figures.to_svg(figure, "JEPA-SCORE against the true log-density")


def by_dimension(lines: Mapping[str, Mapping[int, tuple[Sequence[float], Sequence[float]]]]) -> str:
    """Draw rank correlation with log p, and how much log q varies beside log p, against the dimension.

    Args:
        lines: by case and d, the correlations and the shares of all seeds.

    Returns:
        SVG text; bars are standard deviations over seeds; the dashed line falls with the root of d to the last one's
        end.
    """
    with figures.matplotlib.rc_context(figures.RC):
        figure, panels = figures.make_panels(2, height=3.1)
        for colour, by_dim in zip(COLOURS, lines.values(), strict=False):
            dims = list(by_dim)
            for axes, found in zip(panels, zip(*by_dim.values(), strict=True), strict=True):
                means, stds = [mean(values) for values in found], [stdev(values) for values in found]
                axes.errorbar(dims, means, stds, color=colour, marker="o", elinewidth=0.9)
        falling = [means[-1] * (dims[-1] / dim) ** 0.5 for dim in dims]
        panels[1].plot(dims, falling, color=GREY, linestyle=DASHES[1], linewidth=1)
        titles = "Spearman with log p", "std of log q / std of log p"
        for axes, title in zip(panels, titles, strict=True):
            axes.set_xscale("log")
            axes.minorticks_off()
            axes.set_xticks(dims, [str(dim) for dim in dims])
            axes.set_title(title)
            axes.set_xlabel("dimensions d")
        handles = [figures.legend_line(name, colour, "-", "o") for colour, name in zip(COLOURS, lines, strict=False)]
        figures.add_legend(figure, [*handles, figures.legend_line("falls with √d", GREY, DASHES[1])])
        return figures.to_svg(figure, "JEPA-SCORE under a Gaussianising map, by dimension")
