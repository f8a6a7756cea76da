"""Report of figures 6 and 16: means over seeds, the paper's claims."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Any

import pandas

from pipeline.experiments.figures_experiments import COLOURS, GREY, MARKERS, Line, Panel, chart, dots, look
from pipeline.experiments.repair import CONTROL, MEASURES, START, Settings
from pipeline.experiments.synthetic_report import Report, plus_minus, prose, records
from pipeline.reports.claims import Claim, markdown_table, origin_line

KEY = ["statistic", "dim", "num_slices"]
AXES = {"x_left": "share of the X left", "energy_distance": "energy distance to N(0, I)"}
COLUMNS = (
    *(*KEY, "seeds", "overflowed", "repaired"),
    *(f"{name}_{part}" for name in MEASURES for part in ("mean", "std")),
    *(f"{name}_within" for name in AXES),
)
LABELS = {
    START: "before descent",
    "epps_pulley": "Epps-Pulley",
    "vcreg": "VCReg",
    "extended_jarque_bera": "extended Jarque-Bera",
    "moments": "moments",
    "cramer_von_mises": "Cramér-von Mises",
    "watson": "Watson",
    "anderson_darling": "Anderson-Darling",
    "shapiro_wilk": "Shapiro-Wilk",
    "bhep": "BHEP",
    "henze_zirkler": "Henze-Zirkler",
    "henze_visagie": "Henze-Visagie",
    "comb": "COMB",
    CONTROL: "control: random walk",
}
# What the paper's pictures show: (statistic, measure, in words, whether it is as small as that of Gaussian samples).
PUBLISHED = (
    ("epps_pulley", "x_left", "X gone", True),
    ("epps_pulley", "energy_distance", "as Gaussian samples", True),
    ("vcreg", "x_left", "X stays", False),
    ("extended_jarque_bera", "x_left", "X stays", False),
)
# (D, S) of figure 6, then of figure 16.
PAPER_PLACES = ((1024, 10), (1024, 100), (128, 10), (128, 100))


def summarise(rows: Sequence[Mapping[str, Any]], reference: Mapping[str, Mapping[str, float]]) -> pandas.DataFrame:
    """Average over seeds.

    Args:
        rows: of `repair.measure`.
        reference: of `repair.gaussian_reference`.

    Returns:
        COLUMNS, a row for each statistic, D and S, in the order they come in. `<measure>_within` counts the seeds
        whose measure is not above the bound of Gaussian samples, `repaired` those for which no measure is;
        `overflowed` those without a result.
    """
    table = pandas.DataFrame(rows).astype({"num_slices": "Int64"} | dict.fromkeys(MEASURES, float))
    within = {f"{name}_within": table[name] <= reference[name]["bound"] for name in AXES}
    table = table.assign(**within, overflowed=~table.finite, repaired=pandas.DataFrame(within).all(axis=1))
    groups = table.groupby(KEY, sort=False, dropna=False)
    counts = groups[["overflowed", "repaired", *within]].sum()
    spreads = {f"{name}_{part}": groups[name].agg(part) for name in MEASURES for part in ("mean", "std")}
    return counts.assign(seeds=groups.size(), **spreads).reset_index()[list(COLUMNS)]


def places(summary: pandas.DataFrame) -> Iterator[tuple[int, int, pandas.DataFrame]]:
    """Yield every D and S with its rows of the summary and those that have no slices."""
    for dim, num_slices in sorted(set(summary[["dim", "num_slices"]].dropna().itertuples(index=False, name=None))):
        mine = (summary.num_slices == num_slices) | summary.num_slices.isna()
        yield dim, num_slices, summary[(summary.dim == dim) & mine.fillna(True)]


def claims(summary: pandas.DataFrame) -> list[Claim]:
    """Compare with the paper's pictures: one claim for each of its D and S and each entry of PUBLISHED.

    A measure counts as that of Gaussian samples if it stays within their bound for more than half of the seeds.
    """
    by_key = {tuple(row[name] for name in KEY): row for row in records(summary)}
    return [_claim(by_key.get((entry[0], *place)), place, *entry) for place, entry in product(PAPER_PLACES, PUBLISHED)]


def _claim(
    row: Mapping[str, Any] | None, place: tuple[int, int], name: str, measure: str, published: str, is_small: bool
) -> Claim:
    text = f"{AXES[measure]} after descent on {LABELS[name]}, D {place[0]}, S {place[1]}"
    if row is None or row["overflowed"] == row["seeds"]:
        return Claim(text, published, "", "", 0, "not run")
    verdict = "reproduced" if (2 * row[f"{measure}_within"] > row["seeds"]) == is_small else "differs"
    mean, std = row[f"{measure}_mean"], row[f"{measure}_std"]
    return Claim(text, published, f"{mean:.3f}", "" if std is None else f"{std:.3f}", row["seeds"], verdict)


def report(measured: Mapping[str, Any]) -> Report:
    """Put the report together.

    Args:
        measured: what stages.figure6 wrote: settings, origin, reference and rows of `repair.measure`.
    """
    summary = summarise(measured["rows"], measured["reference"])
    charts = {"figure6": _leftovers(summary, {name: found["bound"] for name, found in measured["reference"].items()})}
    for dim, num_slices, rows in places(summary):
        charts[f"figure6-{dim}d-{num_slices}s"] = _clouds(measured["rows"], rows, f"D = {dim}, S = {num_slices}")
    settings = Settings.model_validate(measured["settings"])
    bounds = {
        name: f"{found['mean']:.3f}, 97.5 % of them below {found['bound']:.3f}"
        for name, found in measured["reference"].items()
    }
    values = {"settings": settings, "num_seeds": len(settings.seeds), "origin": origin_line(measured["origin"])}
    text = prose("repair", bounds=bounds, control=_control(summary), tables="\n".join(_tables(summary)), **values)
    title = "Figures 6 and 16: which statistic repairs an X"
    return Report(title, text, summary, charts, claims(summary))


def _clouds(rows: Sequence[Mapping[str, Any]], shown: pandas.DataFrame, title: str) -> str:
    """Draw the first two dims of the first seed's cloud before and after descent; what lies outside is cut off."""
    points = {tuple(row[name] for name in KEY): row["points"] for row in rows if row["seed"] == rows[0]["seed"]}
    panels = []
    for key in (tuple(row[name] for name in KEY) for row in records(shown)):
        style = dots(GREY if key[0] == START else COLOURS[2], alpha=0.75)
        lines = [Line(*zip(*points[key], strict=True), style)] if points[key] else []
        name = LABELS[key[0]] if lines else f"{LABELS[key[0]]}: overflow"
        panels.append(Panel(name, lines, square=((-4, 4), (-4, 4))))
    return chart(title, panels, height=2.6)


def _leftovers(summary: pandas.DataFrame, bounds: Mapping[str, float]) -> str:
    """Draw each measure of each statistic, mean and deviation over seeds, a row of panels for each D.

    The grey band is where 97.5 % of Gaussian samples lie.
    """
    slices = sorted(summary.num_slices.dropna().unique())
    looks = {None: look(0, color=GREY, linestyle="none")}
    looks |= {num: look(index, marker=MARKERS[index + 1], linestyle="none") for index, num in enumerate(slices)}
    names = list(dict.fromkeys(summary.statistic))
    panels = []
    for dim, measure in product(sorted(summary.dim.unique()), AXES):
        lines = []
        for row in records(summary[(summary.dim == dim) & summary[f"{measure}_mean"].notna()]):
            num = row["num_slices"]
            shift = 0 if num is None else 0.25 * (slices.index(num) - (len(slices) - 1) / 2)
            place = names.index(row["statistic"]) + shift
            lines.append(Line([row[f"{measure}_mean"]], [place], looks[num], [row[f"{measure}_std"] or 0.0]))
        panels.append(
            Panel(
                f"D = {dim}",
                lines,
                AXES[measure],
                log_x=measure == "energy_distance",
                names=[LABELS[name] for name in names],
                band=(-bounds[measure] if measure == "x_left" else 0, bounds[measure]),
            )
        )
    legend = {"no slices" if num is None else f"S = {num}": style for num, style in looks.items()}
    return chart("what is left of the X", panels, legend=legend, columns=2, height=0.6 + 0.19 * len(names))


def _control(summary: pandas.DataFrame) -> str:
    """Say how far random steps of the same size get, without which the tables mean little."""
    walks = summary[(summary.statistic == CONTROL) & (summary.overflowed < summary.seeds)]
    told = []
    for row in walks.itertuples():
        told.append(f"D {row.dim}, S {row.num_slices}: {plus_minus(row.x_left_mean, row.x_left_std)}")
    return "; ".join(told) or "not run"


def _tables(summary: pandas.DataFrame) -> Iterator[str]:
    head = ("statistic", "X left", "energy distance", "spread", "places kept", "repaired")
    for dim, num_slices, rows in places(summary):
        yield f"## D = {dim}, S = {num_slices}\n"
        yield markdown_table(head, map(_table_row, records(rows)))


def _table_row(row: Mapping[str, Any]) -> tuple:
    spreads = [plus_minus(row[f"{name}_mean"], row[f"{name}_std"]) for name in MEASURES]
    overflowed = f" ({row['overflowed']} overflowed)" if row["overflowed"] else ""
    return LABELS[row["statistic"]], *spreads, f"{row['repaired']} of {row['seeds']}{overflowed}"
