"""Report of figure 7: means over seeds, the paper's claim."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas

from pipeline.experiments.figures_experiments import DASHES, GREY, INK, Line, Panel, chart, look
from pipeline.experiments.resampling import KEPT, NORMAL, START, Settings
from pipeline.experiments.synthetic_report import Report, plus_minus, prose, records
from pipeline.reports.claims import Claim, markdown_table, origin_line

Row = Mapping[str, Any]
KEY = ["scheme", "num_slices"]
MEASURES = {
    "heldout_sigreg": "along directions never trained on",
    "trained_sigreg": "along the scheme's own directions",
}
LABELS = {
    "fixed": "random, kept",
    "sobol_fixed": "Sobol, kept",
    "resampled": "random, fresh at every step",
    "sobol_resampled": "Sobol, fresh at every step",
    START: "before descent",
    NORMAL: "fresh N(0, I) samples",
}
LEVELS = (START, NORMAL)
FEW = 16  # slices a step that the paper's figure sets against thousands
THOUSANDS = 1000


def summarise(rows: Sequence[Row]) -> pandas.DataFrame:
    """Average rows of `resampling.measure` over seeds: mean and std of MEASURES for each scheme and S, S rising."""
    table = pandas.DataFrame(rows).astype({"num_slices": "Int64"} | dict.fromkeys(MEASURES, float))
    table["scheme"] = pandas.Categorical(table.scheme, list(LABELS))
    groups = table.groupby(KEY, dropna=False, observed=True)
    spreads = {f"{name}_{part}": groups[name].agg(part) for name in MEASURES for part in ("mean", "std")}
    return groups.size().to_frame("seeds").assign(**spreads).reset_index()


def histories(rows: Sequence[Row]) -> dict[tuple[str, int], pandas.Series]:
    """Average held-out SIGReg over seeds at each watched step, for FEW fresh directions and for thousands kept.

    Returns:
        The means, the watched steps as their index, by scheme and S in the order they come in.
    """
    points = [
        (row["scheme"], row["num_slices"], step, value)
        for row in filter(_is_compared, rows)
        for step, value in row["history"]
    ]
    groups = pandas.DataFrame(points, columns=[*KEY, "step", "value"]).groupby(KEY, sort=False)
    return {(scheme, int(num)): group.groupby("step").value.mean() for (scheme, num), group in groups}


def _is_compared(row: Row) -> bool:
    kept = row["scheme"] in KEPT and row["num_slices"] >= THOUSANDS
    return kept or (row["scheme"], row["num_slices"]) == ("resampled", FEW)


def early_lead(curves: Mapping[tuple[str, int], pandas.Series]) -> str:
    """Say until which of the watched steps thousands of kept directions are ahead of a few fresh ones."""
    told = []
    for (scheme, num_slices), kept in curves.items():
        if scheme not in KEPT:
            continue
        ahead = kept.index[kept < curves["resampled", FEW]] if ("resampled", FEW) in curves else []
        told.append(f"{num_slices} ({LABELS[scheme]}) until step {ahead[-1]}" if len(ahead) else f"{num_slices} never")
    return f"Ahead of {FEW} fresh random directions, of the steps watched: {'; '.join(told) or 'none was run'}.\n"


def claims(rows: Sequence[Row]) -> list[Claim]:
    """Compare 16 fresh directions a step with each set of thousands that stays, seed by seed.

    Args:
        rows: of `resampling.measure`. A claim holds if every seed's held-out SIGReg is lower with fresh directions.

    Returns:
        One claim for each scheme that keeps its directions and each S of thousands; `ours` is the mean of kept / fresh.
    """
    table = pandas.DataFrame([row for row in rows if _is_compared(row)], columns=[*KEY, "seed", "heldout_sigreg"])
    by_seed = table.pivot(index="seed", columns=KEY, values="heldout_sigreg")
    if ("resampled", FEW) not in by_seed or len(by_seed.columns) == 1:
        return [Claim(_text("thousands of", "random"), "> 1", "", "", 0, "not run")]
    few = by_seed.pop(("resampled", FEW))
    return [_claim(scheme, num_slices, kept / few) for (scheme, num_slices), kept in by_seed.sort_index(axis=1).items()]


def _text(num_slices: str, kind: str) -> str:
    return f"held-out SIGReg of {num_slices} {kind} directions kept, over that of {FEW} drawn at every step"


def _claim(scheme: str, num_slices: float, ratios: pandas.Series) -> Claim:
    text = _text(f"{num_slices:g}", "Sobol" if scheme.startswith("sobol") else "random")
    std = "" if len(ratios) == 1 else f"{ratios.std():.2f}"
    verdict = "reproduced" if ratios.min() > 1 else "differs"
    return Claim(text, "> 1", f"{ratios.mean():.2f}", std, len(ratios), verdict)


def report(measured: Mapping[str, Any]) -> Report:
    """Put the report together.

    Args:
        measured: what stages.figure7 wrote: settings, origin and rows of `resampling.measure`.
    """
    rows, settings = measured["rows"], Settings.model_validate(measured["settings"])
    summary, curves = summarise(rows), histories(rows)
    head = ("directions", "S a step", "held-out SIGReg", "trained SIGReg", "seeds")
    table = markdown_table(head, map(_table_row, records(summary)))
    values = {"settings": settings, "num_seeds": len(settings.seeds), "origin": origin_line(measured["origin"])}
    text = prose("resampling", table=table, early_lead=early_lead(curves), **values)
    title = "Figure 7: directions that stay against directions drawn at every step"
    return Report(title, text, summary, {"figure7": _chart(summary, curves)}, claims(rows))


def _table_row(row: Row) -> tuple:
    spreads = [plus_minus(row[f"{name}_mean"], row[f"{name}_std"]) for name in MEASURES]
    return LABELS[row["scheme"]], row["num_slices"], *spreads, row["seeds"]


def _chart(summary: pandas.DataFrame, curves: Mapping[tuple[str, int], pandas.Series]) -> str:
    """Draw SIGReg against the number of directions, a panel per measure, and against steps for some of the descents.

    Bars are standard deviations over seeds; grey lines are samples without descent.
    """
    looks = {name: look(index) for index, name in enumerate(LABELS) if name in set(summary.scheme) - set(LEVELS)}
    levels = {name: {"color": GREY, "linestyle": DASHES[i + 1], "linewidth": 1.2} for i, name in enumerate(LEVELS)}
    dashes = {num: DASHES[index] for index, num in enumerate(sorted({num for _, num in curves}))}
    ticks = sorted(summary.num_slices.dropna().unique())
    panels = []
    for measure, title in MEASURES.items():
        lines = []
        for scheme, rows in summary.dropna(subset=f"{measure}_mean").groupby("scheme", observed=True):
            mean, std = rows[f"{measure}_mean"].tolist(), rows[f"{measure}_std"].fillna(0)
            if scheme in LEVELS:
                lines.append(Line(ticks, mean * len(ticks), levels[scheme]))
            else:
                lines.append(Line(rows.num_slices.tolist(), mean, looks[scheme], std))
        panels.append(Panel(title, lines, "S, directions a step", ticks=ticks, log_y=True))
    while_descending = [
        Line(curve.index, curve, looks[scheme] | {"linestyle": dashes[num]}) for (scheme, num), curve in curves.items()
    ]
    panels.append(Panel("never trained on, while descending", while_descending, "steps done", log_x=True, log_y=True))
    legend = {LABELS[name]: style for name, style in {**looks, **levels}.items()}
    legend |= {f"S = {num}": {"color": INK, "linestyle": dash} for num, dash in dashes.items()}
    title = "directions kept against directions drawn at every step"
    return chart(title, panels, legend=legend, ylabel="SIGReg", height=3.4)
