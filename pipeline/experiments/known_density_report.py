"""Report of the known-density stage: table.csv, report.md and two charts."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from pathlib import Path
from statistics import mean, stdev

from pipeline.core.csv_files import csv_text, rounded
from pipeline.experiments import figures_known_density
from pipeline.experiments.known_density import (
    LEARNED_PLANE,
    LEARNED_SCALES,
    PLANES,
    SCALES,
    SCORE,
    SPHERE,
    Measured,
    Row,
    Settings,
)
from pipeline.reports.claims import markdown_table
from pipeline.runtime.files import write_text
from pipeline.runtime.provenance import describe

BAR = 0.9  # Spearman with log p that the exact score must pass where the embedding's density is constant


def write_report(folder: Path, measured: Measured, settings: Settings) -> None:
    """Write <folder>/table.csv, report.md, scatter.svg and dimensions.svg."""
    charts = {"scatter": _scatter(measured), "dimensions": _by_dimension(measured.rows)}
    for name, svg in charts.items():
        write_text(folder / f"{name}.svg", svg)
    write_text(folder / "table.csv", csv_text(Row._fields, [rounded(row._asdict()) for row in measured.rows]))
    write_text(folder / "report.md", _page(measured.rows, settings, list(charts)))


def group(rows: Sequence[Row]) -> dict[tuple[str, str, int, int | None], list[Row]]:
    """Return the rows of all seeds by case, score, d and D."""
    found: dict[tuple[str, str, int, int | None], list[Row]] = {}
    for row in rows:
        found.setdefault((row.case, row.score, row.dim, row.embed_dim), []).append(row)
    return found


def told(values: Sequence[float]) -> str:
    """Write mean ± standard deviation."""
    return f"{mean(values):.3f} ± {stdev(values):.3f}"


def _scatter(measured: Measured) -> str:
    shown = {}
    for case in (SPHERE, PLANES, SCALES, LEARNED_SCALES):
        key = [key for key in measured.clouds if key[0] == case][-1 if case == SCALES else 0]
        shown[f"{case}\nd = {key[1]}"] = measured.clouds[key]
    return figures_known_density.scatter(shown)


def _by_dimension(rows: Sequence[Row]) -> str:
    lines: dict[str, dict[int, tuple[list[float], list[float]]]] = {PLANES: {}, SCALES: {}}
    for (case, _, dim, _), found in group(rows).items():
        if case in lines:
            lines[case][dim] = [row.spearman for row in found], [row.q_share or 0.0 for row in found]
    return figures_known_density.by_dimension(lines)


def _page(rows: Sequence[Row], settings: Settings, charts: Sequence[str]) -> str:
    machine = describe("cpu")
    hardware, versions = machine["hardware"], machine["versions"]
    lines = []
    for (case, score, dim, embed_dim), found in group(rows).items():
        errors = [row.identity_error for row in found if row.identity_error is not None]
        shares = [row.q_share for row in found if row.q_share is not None]
        cells = case, dim, embed_dim, score, told([row.spearman for row in found])
        lines.append((*cells, told(shares) if shares else "", f"{max(errors):.0e}" if errors else ""))
    head = "case", "d", "D", "score", "Spearman with log p", "std of log q / std of log p", "error of the identity"
    return (
        "# JEPA-SCORE where the density is known\n\n"
        f"{_answer(rows, settings)}\n\n"
        f"{markdown_table(head, lines)}\n"
        f"{_explanation(settings)}\n\n"
        + "".join(f"![{name}]({name}.svg)\n\n" for name in charts)
        + f"Command: `python -m stages.known_density`. Date: {date.today().isoformat()}. {hardware['cpu']}, "
        f"{hardware['num_cpus']} CPUs; Python {versions['python']}, torch {versions['torch']}.\n"
    )


def _answer(rows: Sequence[Row], settings: Settings) -> str:
    """Say in a few sentences what came out, in the numbers of the rows."""
    by_case = group(rows)

    def rho(case: str, score: str = SCORE, place: int = 0) -> str:
        return told([row.spearman for row in _of(by_case, case, score)[place]])

    def sentence(case: str, place: int) -> str:
        untrained = f"random initialisation {rho(case, f'random-init {SCORE}', place)}"
        return f"{rho(case, place=place)} ({untrained}, k-NN distance {rho(case, 'k-NN distance')})"

    least, last = min(row.spearman for row in rows if row.case == SPHERE), settings.dims[-1]
    return (
        "Analytic maps. On the sphere the embedding's density q is constant and the score is log p plus a constant: "
        f"Spearman {rho(SPHERE)}, {'above' if least > BAR else 'NOT above'} {BAR:g} for every seed. A map to N(0, I) "
        f"ranks the plane with {rho(PLANES)}. Dimension alone does not mend that: with independent planes side by side "
        f"log q and log p both vary with the root of d ({rho(PLANES, place=-1)} in {last} dimensions). Where modes "
        f"differ in scale in all dimensions, log p varies with d itself ({rho(SCALES)} in {settings.dims[0]} "
        f"dimensions, {rho(SCALES, place=-1)} in {last}).\n\n"
        f"Networks trained with this project's LeJEPA loss: on the plane with D = {settings.embed_dims[0]} "
        f"{sentence(LEARNED_PLANE, 0)}, with D = {settings.embed_dims[-1]} {sentence(LEARNED_PLANE, -1)}; for modes of "
        f"different scale in {settings.learned_dim} dimensions {sentence(LEARNED_SCALES, 0)}."
    )


def _of(by_case: dict[tuple[str, str, int, int | None], list[Row]], case: str, score: str) -> list[list[Row]]:
    return [found for key, found in by_case.items() if key[:2] == (case, score)]


def _explanation(settings: Settings) -> str:
    return (
        f"{settings.num_points} points a seed, {settings.num_seeds} seeds, mean ± standard deviation. The plane is a "
        "mixture of four Gaussians whose scales differ fivefold, pushed through its conditional distribution functions "
        "to the unit square, and on to the sphere by Lambert's equal-area map or to N(0, I) by normal quantiles. "
        f"`scales` is a mixture of {settings.num_scales} round Gaussians around 0, their scales from 0.1 to "
        "1. All maps are analytic and go through the same `pipeline.density.jepa_score` as any encoder; the error of "
        "the identity is the largest |score + log q(f(x)) − log p(x)|. Trained networks: two hidden layers of "
        f"{settings.hidden_dim} GELU units, {settings.num_steps} steps of {settings.batch_size} points, "
        f"{settings.num_views} views by noise of {settings.view_share:g} of the smallest mode's scale, lambda "
        f"{settings.lamb:g}. k-NN (k = {settings.k}) and KDE (Scott's bandwidth) know {settings.num_known} points of "
        "the mixture. Adding log N(f) is exact only for an embedding that is N(0, I) and one to one."
    )
