"""Report of figure 7: means over seeds, the paper's claim."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

from pipeline.core.csv_files import rounded
from pipeline.experiments import plots_descent
from pipeline.experiments.resampling import KEPT, NORMAL, START
from pipeline.experiments.synthetic_report import Report
from pipeline.reports.claims import Claim, markdown_table, mean_and_std, origin_line

Row = Mapping[str, Any]
MEASURES = ("heldout_sigreg", "trained_sigreg")
COLUMNS = ("scheme", "num_slices", "seeds", *(f"{name}_{part}" for name in MEASURES for part in ("mean", "std")))
LABELS = {
    "fixed": "random, kept",
    "sobol_fixed": "Sobol, kept",
    "resampled": "random, fresh at every step",
    "sobol_resampled": "Sobol, fresh at every step",
    START: "before descent",
    NORMAL: "fresh N(0, I) samples",
}
LEVELS = (START, NORMAL)
TITLES = {"heldout_sigreg": "along directions never trained on", "trained_sigreg": "along the scheme's own directions"}
FEW = 16  # slices a step that the paper's figure sets against thousands
THOUSANDS = 1000


def summarise(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Average rows of resampling.COLUMNS over seeds; one row of COLUMNS for each scheme and S, S rising."""
    groups: dict[tuple, list[Row]] = {}
    for row in sorted(rows, key=lambda row: (list(LABELS).index(row["scheme"]), row["num_slices"] or 0)):
        groups.setdefault((row["scheme"], row["num_slices"]), []).append(row)
    return [
        {"scheme": scheme, "num_slices": num_slices, "seeds": len(group), **_spreads(group)}
        for (scheme, num_slices), group in groups.items()
    ]


def _spreads(group: Sequence[Row]) -> dict[str, float | None]:
    out: dict[str, float | None] = {}
    for name in MEASURES:
        values = [row[name] for row in group if row[name] is not None]
        out[f"{name}_mean"], out[f"{name}_std"] = mean_and_std(values) if values else (None, None)
    return out


def histories(rows: Sequence[Row]) -> dict[tuple[str, int], list[tuple[int, float]]]:
    """Average held-out SIGReg over seeds at each watched step, for FEW fresh directions and for thousands kept."""
    out: dict[tuple[str, int], list[tuple[int, float]]] = {}
    for scheme, num_slices in dict.fromkeys((row["scheme"], row["num_slices"]) for row in rows):
        if (scheme, num_slices) == ("resampled", FEW) or (scheme in KEPT and num_slices >= THOUSANDS):
            found = [r["history"] for r in rows if (r["scheme"], r["num_slices"]) == (scheme, num_slices)]
            out[scheme, num_slices] = [
                (points[0][0], mean(value for _, value in points)) for points in zip(*found, strict=True)
            ]
    return out


def _early_lead(curves: Mapping[tuple[str, int], Sequence[tuple[int, float]]]) -> str:
    """Say until which of the watched steps thousands of kept directions are ahead of a few fresh ones."""
    few = curves.get(("resampled", FEW), [])
    told = []
    for (scheme, num_slices), kept in curves.items():
        ahead = [step for (step, theirs), (_, ours) in zip(kept, few, strict=False) if theirs < ours]
        if scheme in KEPT:
            told.append(f"{num_slices} ({LABELS[scheme]}) until step {ahead[-1]}" if ahead else f"{num_slices} never")
    return f"Ahead of {FEW} fresh random directions, of the steps watched: {'; '.join(told) or 'none was run'}.\n"


def claims(rows: Sequence[Row]) -> list[Claim]:
    """Compare 16 fresh directions a step with each set of thousands that stays, seed by seed.

    Args:
        rows: of resampling.COLUMNS. A claim holds if every seed's held-out SIGReg is lower with fresh directions.

    Returns:
        One claim for each scheme that keeps its directions and each S of thousands; `ours` is the mean of kept / fresh.
    """
    few = {
        row["seed"]: row["heldout_sigreg"] for row in rows if (row["scheme"], row["num_slices"]) == ("resampled", FEW)
    }
    groups: dict[tuple, dict[int, float]] = {}
    for row in rows:
        if row["scheme"] in KEPT and row["num_slices"] >= THOUSANDS:
            groups.setdefault((row["scheme"], row["num_slices"]), {})[row["seed"]] = row["heldout_sigreg"]
    if not few or not groups:
        return [Claim(_text("thousands of", "random"), "> 1", "", "", 0, "not run")]
    return [
        _claim(
            _text(str(num_slices), "Sobol" if scheme.startswith("sobol") else "random"), [kept[s] / few[s] for s in few]
        )
        for (scheme, num_slices), kept in sorted(groups.items())
    ]


def _text(num_slices: str, kind: str) -> str:
    return f"held-out SIGReg of {num_slices} {kind} directions kept, over that of {FEW} drawn at every step"


def _claim(text: str, ratios: Sequence[float]) -> Claim:
    ratio, std = mean_and_std(ratios)
    verdict = "reproduced" if min(ratios) > 1 else "differs"
    return Claim(text, "> 1", f"{ratio:.2f}", "" if std is None else f"{std:.2f}", len(ratios), verdict)


def report(measured: Mapping[str, Any]) -> Report:
    """Put the report together.

    Args:
        measured: what stages.figure7 wrote: settings, origin and rows of `resampling.measure`.
    """
    rows, settings = measured["rows"], measured["settings"]
    summary = summarise(rows)
    method = (
        f"N = {settings['num_samples']} samples in K = {settings['dim']} dims, Gaussian with variances proportional to "
        f"k^-{settings['spectrum_power']:g} before descent; {settings['num_steps']} steps of Adam on the samples "
        f"themselves, learning rate {settings['lr']:g}; {len(settings['seeds'])} seeds. "
        f"{origin_line(measured['origin'])}\n\n"
        f"- **held-out SIGReg**: along {settings['num_heldout']} directions that no scheme saw; lower is better.\n"
        f"- **trained SIGReg**: along the scheme's own next directions; of kept ones, those that it was trained on.\n"
    )
    head = ("directions", "S a step", "held-out SIGReg", "trained SIGReg", "seeds")
    table = markdown_table(
        head,
        [(LABELS[r["scheme"]], r["num_slices"], *(_spread(r, name) for name in MEASURES), r["seeds"]) for r in summary],
    )
    chart = plots_descent.coverage(summary, histories(rows), LABELS, LEVELS, TITLES)
    title = "Figure 7: directions that stay against directions drawn at every step"
    text = f"{method}\n{table}\n{_early_lead(histories(rows))}"
    return Report(title, text, COLUMNS, list(map(rounded, summary)), {"figure7": chart}, claims(rows))


def _spread(row: Row, name: str) -> str:
    value, std = row[f"{name}_mean"], row[f"{name}_std"]
    return "" if value is None else f"{value:.3f}" if std is None else f"{value:.3f} ± {std:.3f}"
