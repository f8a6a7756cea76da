"""Report of a comparison of objectives: a row per data set, budget and objective, and who wins by how much."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas

from pipeline.experiments.figures_experiments import GUIDE, Line, Panel, chart, look
from pipeline.experiments.synthetic_report import Report, plus_minus, prose
from pipeline.reports.claims import markdown_table
from pipeline.reports.render import join, literal
from pipeline.runtime.errors import UserError

GROUP = ["dataset", "budget", "objective"]
BUDGETS = {"images": "Equal images seen", "time": "Equal wall time"}
BASELINES = {"random_init": "random initialisation", "raw_pixels": "raw pixels"}
SUPERVISED = "supervised"
SCORE = "linear_top1"
MEANS = ("train_loss", "train_s", "images_per_s")
TOLD = (
    *("backbone", "tuned", "weight", "lambda", "w", "num_samples", "pooling", "convention", "lr", "weight_at_edge"),
    *("lr_at_edge", "holdout_top1", "epochs", "num_images", "images_seen", "relative_step_time", "peak_memory_mib"),
    *("probe_site", "num_test", "commit"),
)
EDGE = "†"


def read_trials(folder: Path) -> pandas.DataFrame:
    """Return the rows of all trainings below a folder, in the order of objectives and data sets there.

    Raises:
        UserError: none were run.
    """
    found = [pandas.read_csv(path) for path in sorted(folder.glob("*/rows.csv"))]
    if not found:
        raise UserError(f"there is no rows.csv in the folders of {folder}; run the pipeline that makes them")
    return pandas.concat(found, ignore_index=True)


def summarise(rows: pandas.DataFrame) -> pandas.DataFrame:
    """Return a row per data set, budget and objective: scores with `_std` over seeds (N - 1) and the binomial error.

    Peak memory is the largest of the seeds; it is the process', so that of what ran before in it too.
    """
    scores = [name for name in rows.columns if "top1" in name and not name.endswith(("std", "images", "holdout_top1"))]
    groups = rows.groupby(GROUP, sort=False, dropna=False)
    told = groups[[name for name in TOLD if name in rows]].agg(_same_or_most)
    means = groups[[name for name in (*MEANS, *scores) if name in rows]].mean()
    spread = groups[scores].std().add_suffix("_std")
    counts = groups.agg(seeds=("seed", "size"))
    if "collapsed" in rows:
        counts["num_collapsed"] = rows.collapsed.eq(True).groupby([rows[name] for name in GROUP]).sum()
    found = pandas.concat([told, counts, means, spread], axis=1).reset_index()
    found[f"{SCORE}_binomial"] = [
        binomial_error(p, n) for p, n in zip(found[SCORE], found["num_test"].astype(int), strict=True)
    ]
    order = [*GROUP, *(name for name in found.columns if name not in GROUP)]
    return found[order]


def _same_or_most(values: pandas.Series) -> Any:
    """Return the value that a group has; of several, numbers' largest, commits one after the other."""
    distinct = values.dropna().unique().tolist()
    if len(distinct) > 1 and isinstance(distinct[0], str):
        return " ".join(distinct)
    return max(distinct, default=None)


def binomial_error(accuracy: float, num_images: int) -> float:
    """Return the standard error of an accuracy on so many images: sqrt(p (1 - p) / N)."""
    return math.sqrt(accuracy * (1 - accuracy) / num_images)


def report(rows: pandas.DataFrame, *, title: str, reference: str, name: str) -> Report:
    """Put the rows of all trainings together.

    Args:
        rows: of `read_trials`.
        title: heading of the page.
        reference: the objective that the others are compared with.
        name: of the chart.
    """
    table = summarise(rows)
    parts = [prose("trials", reference=reference, edge=EDGE)]
    for dataset, found in table.groupby("dataset", sort=False):
        baselines = found[found.budget == "none"]
        parts.append(f"## {literal(dataset)}")
        for budget, heading in BUDGETS.items():
            chosen = found[found.budget == budget].sort_values(SCORE, ascending=False, kind="stable")
            if len(chosen):
                shown = [_line(row) for row in [*chosen.to_dict("records"), *baselines.to_dict("records")]]
                parts += [f"### {heading}", markdown_table(HEAD, shown), verdict(chosen, reference)]
    return Report(title, join(*parts), table, {name: _chart(table)}, [])


HEAD = ("objective", "weight", "lr", "epochs", "images seen", "seconds", "images/s", "linear", "k-NN", "10-shot", "±")


def _line(row: dict[str, Any]) -> list[str]:
    objective = BASELINES.get(row["objective"], row["objective"])
    scores = [_percent(row, score) for score in (SCORE, "knn_top1", "linear_top1_10shot")]
    error = f"{100 * row[f'{SCORE}_binomial']:.1f}"
    if row["budget"] == "none":
        return [f"*{objective}*", "", "", "", "", "", "", *scores, error]
    weight = f"{row['tuned']} {row['weight']:g}{_edge(row['weight_at_edge'])}"
    if not pandas.isna(row.get("w")):
        weight += f" (w {row['w']:.2g})"
    collapsed = f" ({row['num_collapsed']:.0f} of {row['seeds']} collapsed)" if row.get("num_collapsed") else ""
    numbers = [f"{row['lr']:g}{_edge(row['lr_at_edge'])}", f"{row['epochs']:.0f}", f"{row['images_seen']:.0f}"]
    numbers += [f"{row['train_s']:.0f}", f"{row['images_per_s']:.0f}"]
    return [literal(objective) + collapsed, literal(weight), *numbers, *scores, error]


def _edge(at_edge: Any) -> str:
    return EDGE if at_edge in (True, "True") else ""


def _percent(row: dict[str, Any], score: str) -> str:
    mean, std = row.get(score), row.get(f"{score}_std")
    return plus_minus(*(None if pandas.isna(value) else 100 * value for value in (mean, std)), form=".1f")


def verdict(chosen: pandas.DataFrame, reference: str) -> str:
    """Compare the reference with the best other self-supervised objective: by more than two standard errors, or not.

    Each side's error has its deviation over seeds and the binomial error of the test images. These are the same for
    both, so that part of the latter cancels: the verdict is careful.
    """
    rows = {row["objective"]: row for row in chosen.to_dict("records") if row["objective"] != SUPERVISED}
    if reference not in rows or len(rows) < 2:
        return ""
    ours = rows.pop(reference)
    best = max(rows.values(), key=lambda row: row[SCORE])
    difference, error = ours[SCORE] - best[SCORE], math.sqrt(_variance(ours) + _variance(best))
    side = "above" if difference > 0 else "below"
    judged = "more than" if abs(difference) > 2 * error else "within"
    return (
        f"{reference} has {100 * ours[SCORE]:.1f}, the best other self-supervised objective, {best['objective']}, "
        f"{100 * best[SCORE]:.1f}: {reference} is {100 * abs(difference):.1f} points {side} it, {judged} two standard "
        f"errors of the difference ({200 * error:.1f})."
    )


def _variance(row: dict[str, Any]) -> float:
    spread = row[f"{SCORE}_std"]
    seeds = 0.0 if pandas.isna(spread) else spread**2 / row["seeds"]
    return seeds + row[f"{SCORE}_binomial"] ** 2


def _chart(table: pandas.DataFrame) -> str:
    looks = {heading: look(index, linestyle="none") for index, heading in enumerate(BUDGETS.values())}
    panels = []
    for dataset, found in table.groupby("dataset", sort=False):
        trained = found[found.budget != "none"]
        names = trained[trained.budget == "images"].sort_values(SCORE, ascending=False)["objective"].tolist()
        lines = [
            Line(100 * one[SCORE], [names.index(name) for name in one.objective], looks[BUDGETS[budget]], 100 * error)
            for budget, one in trained.groupby("budget", sort=False)
            for error in [one[f"{SCORE}_std"].fillna(0)]
        ]
        lines += [Line([100 * value] * 2, [0, len(names) - 1], GUIDE) for value in _baseline_scores(found)]
        panels.append(Panel(str(dataset), lines, "linear accuracy, %", names=names))
    legend = {**looks, "random initialisation, raw pixels": GUIDE}
    return chart("linear accuracy of every objective", panels, legend=legend, columns=2, height=3.6)


def _baseline_scores(found: pandas.DataFrame) -> Iterator[float]:
    yield from found[found.budget == "none"][SCORE]
