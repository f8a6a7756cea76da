"""Report of the known-density stage: table.csv, report.md and two charts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas

from pipeline.experiments.figures_experiments import COLOURS, GUIDE, TRUTH, Line, Panel, chart, dots, look
from pipeline.experiments.known_density import (
    LEARNED_PLANE,
    LEARNED_SCALES,
    PLANES,
    SCALES,
    SCORE,
    SPHERE,
    Measured,
    Settings,
)
from pipeline.experiments.synthetic_report import machine_line, plus_minus, prose, records
from pipeline.reports.claims import markdown_table
from pipeline.reports.render import csv_text
from pipeline.runtime.files import write_text

BAR = 0.9  # Spearman with log p that the exact score must pass where the embedding's density is constant
SHOWN_POINTS = 200  # a panel


def write_report(folder: Path, measured: Measured, settings: Settings) -> None:
    """Write <folder>/table.csv, report.md, scatter.svg and dimensions.svg."""
    table = pandas.DataFrame(measured.rows).astype({"embed_dim": "Int64", "identity_error": float, "q_share": float})
    summary = table.groupby(["case", "score", "dim", "embed_dim"], sort=False, dropna=False).agg(
        rho=("spearman", "mean"),
        rho_std=("spearman", "std"),
        share=("q_share", "mean"),
        share_std=("q_share", "std"),
        error=("identity_error", "max"),
    )
    charts = {"scatter": _scatter(measured), "dimensions": _by_dimension(summary)}
    for name, svg in charts.items():
        write_text(folder / f"{name}.svg", svg)
    write_text(folder / "table.csv", csv_text(table))
    head = ("case", "d", "D", "score", "Spearman with log p", "std of log q / std of log p", "error of the identity")
    least = table[table.case == SPHERE].spearman.min()
    values = _correlations(summary, settings) | {"bar": f"{'above' if least > BAR else 'NOT above'} {BAR:g}"}
    lines = markdown_table(head, [_line(row) for row in records(summary.reset_index())])
    text = prose("known_density", settings=settings, table=lines, machine=machine_line("cpu"), **values)
    write_text(folder / "report.md", text)


def _line(row: dict[str, Any]) -> tuple:
    spreads = plus_minus(row["rho"], row["rho_std"]), plus_minus(row["share"], row["share_std"])
    error = "" if row["error"] is None else f"{row['error']:.0e}"
    return row["case"], row["dim"], row["embed_dim"], row["score"], *spreads, error


def _scatter(measured: Measured) -> str:
    """Draw scores against the true log-density, both less their means; the dashed line is equality."""
    panels = []
    for case in (SPHERE, PLANES, SCALES, LEARNED_SCALES):
        key = [key for key in measured.clouds if key[0] == case][-1 if case == SCALES else 0]
        x, y = ((values - values.mean())[:SHOWN_POINTS].tolist() for values in measured.clouds[key])
        ends = [min(x), max(x)]
        lines = [Line(x, y, dots(COLOURS[0])), Line(ends, ends, TRUTH)]
        panels.append(Panel(f"{case}\nd = {key[1]}", lines, "log p − mean"))
    return chart("JEPA-SCORE against the true log-density", panels, ylabel="score − mean")


def _by_dimension(summary: pandas.DataFrame) -> str:
    """Draw rank correlation with log p, and how much log q varies beside log p, against the dimension.

    The dashed line falls with the root of d to the end of the last one.
    """
    looks = {case: look(index, marker="o") for index, case in enumerate((PLANES, SCALES))}
    panels = []
    for column, title in {"rho": "Spearman with log p", "share": "std of log q / std of log p"}.items():
        lines = []
        for case, style in looks.items():
            found = summary.loc[case].reset_index()
            dims = found.dim.tolist()
            lines.append(Line(dims, found[column].tolist(), style, found[f"{column}_std"]))
        if column == "share":
            falling = [lines[-1].y[-1] * (dims[-1] / dim) ** 0.5 for dim in dims]
            lines.append(Line(dims, falling, GUIDE))
        panels.append(Panel(title, lines, "dimensions d", ticks=dims))
    title = "JEPA-SCORE under a Gaussianising map, by dimension"
    return chart(title, panels, legend={**looks, "falls with √d": GUIDE})


def _correlations(summary: pandas.DataFrame, settings: Settings) -> dict[str, Any]:
    """Return what the page says of the cases: rank correlations with log p, of networks also without training."""

    def rho(case: str, score: str = SCORE, place: int = 0) -> str:
        found = summary.loc[case].loc[score].iloc[place]
        return plus_minus(found.rho, found.rho_std)

    def trained(case: str, place: int = 0) -> str:
        untrained = f"random initialisation {rho(case, f'random-init {SCORE}', place)}"
        return f"{rho(case, place=place)} ({untrained}, k-NN distance {rho(case, 'k-NN distance')})"

    return {
        "sphere": rho(SPHERE),
        "planes": rho(PLANES),
        "planes_last": rho(PLANES, place=-1),
        "scales": rho(SCALES),
        "scales_last": rho(SCALES, place=-1),
        "last": settings.dims[-1],
        "learned_plane": trained(LEARNED_PLANE),
        "learned_plane_last": trained(LEARNED_PLANE, -1),
        "widest": settings.embed_dims[-1],
        "learned_scales": trained(LEARNED_SCALES),
    }
