"""Report of paper/figure20: errors of the trapezoid rule and their order."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import pandas

from pipeline.experiments.figures_experiments import GUIDE, Line, Panel, chart, look
from pipeline.experiments.quadrature import LAWS, ROUNDING, Error, Settings, slope
from pipeline.experiments.synthetic_report import Report, prose
from pipeline.reports.claims import Claim, markdown_table

QUADRATIC = -2.0
SHARPLY = 0.1  # a slope that is steeper by less is quadratic


def slopes(settings: Settings) -> dict[tuple[float, int, int], dict[str, float | None]]:
    """Return the slope of every law, for each (t_max, first knots, last knots)."""
    ranges = [(t_max, *knots) for t_max in settings.t_max for knots in pairwise(settings.slope_knots)]
    return {where: {law: slope(phi, *where) for law, phi in LAWS.items()} for where in ranges}


def claims(settings: Settings) -> list[Claim]:
    """Answer the claim that the error falls faster than quadratically, for the law where it falls slowest."""
    found = []
    for (t_max, first, last), by_law in slopes(settings).items():
        claim = f"error falls faster than quadratically: slope, {first} to {last} knots on [0, {t_max:g}]"
        falling = {law: value for law, value in by_law.items() if value is not None}
        if not falling:
            found.append(Claim(claim, f"< {QUADRATIC:g}", "", "", 0, "not run"))
            continue
        law = max(falling, key=falling.__getitem__)
        verdict = "reproduced" if falling[law] < QUADRATIC - SHARPLY else "differs"
        found.append(Claim(f"{claim}, {law}", f"< {QUADRATIC:g}", f"{falling[law]:.2f}", "", 1, verdict))
    return found


def report(rows: Sequence[Error], settings: Settings) -> Report:
    """Put rows, chart and claims together."""
    table = pandas.DataFrame(rows)
    values = {"num_laws": len(LAWS), "rounding": ROUNDING, "bar": QUADRATIC - SHARPLY}
    text = prose("quadrature", errors=_table(table), slopes=_slope_table(settings), **values)
    title = "Figure 20: error of the trapezoid rule against the number of knots"
    return Report(title, text, table, {"figure20": _chart(table)}, claims(settings), digits=12)


def _chart(table: pandas.DataFrame) -> str:
    """Draw relative errors against the knots, a panel for each t_max; smaller ones are drawn at ROUNDING."""
    looks = {law: look(index) for index, law in enumerate(LAWS)}
    panels = []
    for t_max, mine in table.groupby("t_max"):
        by_law = mine.pivot(index="num_knots", columns="law", values="relative_error").clip(lower=ROUNDING)
        knots = by_law.index.tolist()
        lines = [Line(knots, by_law[law], looks[law]) for law in LAWS]
        lines.append(Line(knots, [1 / (num - 1) ** 2 for num in knots], GUIDE))
        panels.append(Panel(f"t_max = {t_max:g}", lines, "knots on [0, t_max]", ticks=knots, log_y=True))
    title = "error of the trapezoid rule against knots"
    return chart(title, panels, legend={**looks, "quadratic": GUIDE}, ylabel="relative error")


def _table(table: pandas.DataFrame) -> str:
    worst = table.pivot_table("relative_error", "t_max", "num_knots", "max", sort=False)
    truncation = table.groupby("t_max", sort=False).truncation_error.max()
    head = ["t_max", *(f"{knots} knots" for knots in worst.columns), "truncation"]
    lines = []
    for t_max, errors in worst.iterrows():
        lines.append([f"{t_max:g}", *(f"{value:.1e}" for value in errors), f"{truncation[t_max]:.1e}"])
    return markdown_table(head, lines)


def _slope_table(settings: Settings) -> str:
    found = slopes(settings)
    head = ["distribution", *(f"t_max {t_max:g}, {first} to {last} knots" for t_max, first, last in found)]
    return markdown_table(head, ([law, *(_one_decimal(by_law[law]) for by_law in found.values())] for law in LAWS))


def _one_decimal(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"
