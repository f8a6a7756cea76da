"""The comparison as Markdown: comparison.md, which index.html shows as well.

Every learned score stands in percent with, under it, the same probe on the same backbone at random initialisation and
on raw pixels, and the difference in points.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from pipeline.reports.render import ABSENT, bullets, join, literal, markdown_table, percent, points
from pipeline.reports.run_facts import COSTS, facts_line
from pipeline.reports.tables import score_columns

BASELINES = {"random_init_": "random", "raw_pixels_": "pixels"}
LEADERS = {"random_init_": "the best random initialisation", "raw_pixels_": "the probe on raw pixels"}
MEANINGS = {
    "random_init_": "the same backbone at random initialisation (random)",
    "raw_pixels_": "raw pixels (pixels)",
}
ALARM = "†"  # beside the name of a row of which some run has an alarm
GAINS = """\
Learned minus random initialisation, in points: the mean over the cells of each data set, and how many of them gain.\
"""
ACCURACY = """\
Top-1 accuracy against λ. Dotted: the same backbone at random initialisation. Grey dashes: raw pixels. Bars: the \
standard deviation of the table, where there is one.\
"""
CURVES = """\
Loss by epoch: total, prediction and SIGReg; the axis is logarithmic where values differ more than twentyfold.\
"""
CAPTIONS = {"accuracy": ACCURACY, "curves": CURVES}


def score_label(name: str) -> str:
    """Short heading of a score: linear, k-NN, 1-shot."""
    shots = re.fullmatch(r"linear_top1_(\d+)shot", name)
    return f"{shots[1]}-shot" if shots else {"linear_top1": "linear", "knn_top1": "k-NN"}[name]


def run_address(ui: str, experiment: str) -> str:
    """Return the address of a run in the MLflow at `ui`, with {run_id}; "" without the id of an experiment."""
    return f"{ui.rstrip('/')}/#/experiments/{experiment}/runs/{{run_id}}" if experiment else ""


def markdown(
    title: str, lead: str, rows: pd.DataFrame, gains: pd.DataFrame, missing: Sequence[str], decimals: int, run_url: str
) -> str:
    """Write comparison.md.

    Args:
        title: heading of the page.
        lead: first sentence.
        rows: of `tables.summarise`.
        gains: of `tables.improvements`.
        missing: one line per cell without results.
        decimals: of a percentage.
        run_url: of `run_address`.
    """
    parts = [f"# {literal(title)}", literal(lead), GAINS, markdown_table(gains_table(gains, decimals)), reading(rows)]
    for dataset, group in rows.groupby("dataset", sort=False):
        parts += [f"## {literal(dataset)}", markdown_table(score_table(group, decimals, run_url)), facts_line(group)]
        parts += [*map(literal, alarm_lines(group)), literal(verdict(group, decimals))]
    if missing:
        parts += ["## Missing cells", bullets([literal(line) for line in missing])]
    return join(*parts)


def score_table(rows: pd.DataFrame, decimals: int, run_url: str) -> pd.DataFrame:
    """Return the table of one data set as it is shown, cells in Markdown."""
    names = rows["backbone"].map(literal) + rows["alarms"].map(lambda alarms: f" {ALARM}" if alarms else "")
    columns: dict[str, Any] = {"backbone": names, "λ": rows["lambda"].map("{:g}".format)}
    if (rows["objective"] != "lejepa").any():
        columns["objective"] = rows["objective"].map(literal)
    if (num_trained(rows) > 1).any():
        columns["n"] = rows["num_seeds"].astype(str)
    columns |= {score_label(score): score_cells(rows, score, decimals) for score in score_columns(rows)}
    columns |= {"train loss": with_spread(rows, "train_loss", ".4g", ".2g"), "epochs": rows["epochs"].astype(str)}
    if rows["w"].notna().any():
        columns["w"] = with_spread(rows, "w", ".2g")
    measured = {head: name for head, name in COSTS.items() if rows[name].notna().any()}
    columns |= {head: with_spread(rows, name, ".0f") for head, name in measured.items()}
    columns["run"] = rows["run_ids"].map(lambda ids: "<br>".join(_run(run, run_url) for run in ids))
    return pd.DataFrame(columns)


def with_spread(rows: pd.DataFrame, name: str, form: str, spread_form: str = ".0f") -> pd.Series:
    """Write a column of `tables.summarise`, with its standard deviation over seeds where there are several."""

    def cell(value: float, spread: float) -> str:
        if pd.isna(value):
            return ABSENT
        return f"{value:{form}}" + ("" if pd.isna(spread) else f" ± {spread:{spread_form}}")

    spreads = rows[f"{name}_std"] if f"{name}_std" in rows else [math.nan] * len(rows)
    return pd.Series([*map(cell, rows[name], spreads)], index=rows.index, dtype=object)


def _run(run_id: str, run_url: str) -> str:
    short = f"`{literal(run_id[:8])}`"
    return f"[{short}]({run_url.format(run_id=run_id)})" if run_url else short


def score_cells(rows: pd.DataFrame, score: str, decimals: int) -> pd.Series:
    """Write one score of every row with its baselines; the best of the column, baselines included, is bold.

    What looks equal is equally best.
    """
    prefixes = measured_baselines(rows)
    others = rows.reindex(columns=[prefix + score for prefix in prefixes])
    best = percent(pd.concat([rows[[score]], others], axis=1).max(axis=None), decimals)

    def shown(value: float) -> str:
        text = percent(value, decimals)
        return f"**{text}**" if text == best != ABSENT else text

    def cell(row: Mapping[str, Any]) -> str:
        learned, collapsed = row[score], _collapse(row)
        spread = row.get(f"{score}_std", float("nan"))
        lines = [shown(learned) + ("" if pd.isna(spread) else f" ± {percent(spread, decimals)}"), collapsed]
        if pd.isna(learned):
            lines = [collapsed or ABSENT]
        for prefix in prefixes:
            value = row.get(prefix + score, float("nan"))
            change = "" if pd.isna(value) or pd.isna(learned) else f" ({points(learned - value, decimals)})"
            lines.append(f"*{BASELINES[prefix]} {shown(value)}{change}*")
        return "<br>".join(filter(None, lines))

    return pd.Series([cell(row) for row in rows.to_dict("records")], index=rows.index, dtype=object)


def measured_baselines(rows: pd.DataFrame) -> list[str]:
    """Name the baselines, by their prefix, of which any row has a number: `probe.baselines` chooses them."""
    return [prefix for prefix in BASELINES if any(name.startswith(prefix) for name in rows.columns)]


def _collapse(row: Mapping[str, Any]) -> str:
    """Say that every run of a row collapsed, and when, or how many did: `1 of 3 collapsed`; empty if none did."""
    epochs = [str(alarms["collapse"]) for alarms in row["alarms"].values() if "collapse" in alarms]
    if not epochs:
        return ""
    if row["num_seeds"]:
        return f"{len(epochs)} of {num_trained(row)} collapsed"
    return f"collapsed (epoch{'s' * (len(epochs) > 1)} {', '.join(epochs)})"


def num_trained(row: Any) -> Any:
    """Count the training seeds of a row, or of each row, those that collapsed among them."""
    return row["num_seeds"] + row["num_collapsed"]


def alarm_lines(rows: pd.DataFrame) -> list[str]:
    """Name every run with alarms: `† test_vit, λ 0.05, seed 0: explosion at epoch 5`."""
    return [
        f"{ALARM} {backbone}, λ {lamb:g}, seed {seed}: "
        + ", ".join(f"{name} at epoch {epoch}" for name, epoch in alarms.items())
        for backbone, lamb, by_seed in zip(rows["backbone"], rows["lambda"], rows["alarms"], strict=True)
        for seed, alarms in by_seed.items()
    ]


def verdict(rows: pd.DataFrame, decimals: int) -> str:
    """Say in a sentence or two where a baseline is at least as good as every learned backbone of a data set."""
    scores = score_columns(rows)
    if rows[scores].isna().all(axis=None):
        return "There is no learned number to compare."
    lost = []
    for score in scores:
        for prefix, leader in LEADERS.items():
            learned, other = rows[score].max(), rows.get(prefix + score, pd.Series(dtype=float)).max()
            if other >= learned:
                verb = "beats" if other > learned else "equals"
                numbers = f"{percent(other, decimals)} against {percent(learned, decimals)}"
                lost.append(f"{score_label(score)}: {leader} {verb} the best learned backbone, {numbers}")
    if lost:
        return f"A baseline is not beaten here. {'; '.join(lost)}."
    return "In every column the best number is a learned one."


def reading(rows: pd.DataFrame) -> str:
    """Explain the table: what stands under a number, what bold and ± mean, how many seeds there are."""
    if (num_trained(rows) == 1).all():
        spread = "One training seed each (n = 1); ± is the standard deviation over the few-shot draws."
    else:
        spread = (
            "Means over n training seeds; ± is their standard deviation, or where n = 1 that of the few-shot draws."
        )
    baselines = "No baseline was measured (probe.baselines)."
    if prefixes := measured_baselines(rows):
        others = " and on ".join(MEANINGS[prefix] for prefix in prefixes)
        baselines = (
            f"Under each number: the same probe on {others}, and how many points the learned features are above it "
            "(differences are taken before rounding)."
        )
    costs = (
        "s, images/s, MiB: training time in seconds, images per second, peak memory (of the GPU; on a CPU, of the "
        "process; over several seeds, the largest)."
    )
    alarms = ""
    if rows["alarms"].any():
        alarms = (
            f" {ALARM}: an alarm rang in training, named under the table. A run that collapsed has no learned number "
            "and is left out of means, gains and charts."
        )
    return (
        f"Top-1 accuracy on the test split in percent, frozen backbone. {baselines} {spread} "
        f"Bold: best of its column, baselines included. {costs}{alarms}"
    )


def gains_table(gains: pd.DataFrame, decimals: int) -> pd.DataFrame:
    """Return the gains over random initialisation as they are shown: a row per data set, a column per score."""
    left_out = gains["num_collapsed"].map(lambda num: f" ({num} collapsed, left out)" if num else "")
    columns = {"data set": gains["dataset"].map(literal), "cells": gains["num_cells"].astype(str) + left_out}
    for score in score_columns(gains):
        found = zip(gains[score], gains[f"{score}_better"], gains[f"{score}_n"], strict=True)
        columns[score_label(score)] = [
            ABSENT if pd.isna(mean) else f"{points(mean, decimals)} ({better:.0f} of {num:.0f})"
            for mean, better, num in found
        ]
    if not score_columns(gains):
        columns["gain"] = "random initialisation was not measured (probe.baselines)"
    return pd.DataFrame(columns)


def counted(gains: pd.DataFrame, num_cells: int) -> str:
    """Say how many of a grid's cells have results, and how many of these collapsed."""
    sound, collapsed = gains["num_cells"].sum(), gains["num_collapsed"].sum()
    ending = f", {collapsed} of them collapsed" if collapsed else ""
    return f"{sound + collapsed} of {num_cells} cells have results{ending}"
