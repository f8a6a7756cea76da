"""Results of a grid's cells as tables. The only module that imports pandas.

A `score` is a fraction in [0, 1]: `linear_top1`, `knn_top1`, `linear_top1_<k>shot`. The same names with the prefix
`random_init_` or `raw_pixels_` are its baselines, with the suffix `_std` its spread over few-shot draws.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from pipeline.core.results import shown_alarms
from pipeline.tracking.record import alarm_tag

if TYPE_CHECKING:
    from pipeline.settings.cells import Cell

CELL_COLUMNS = ["grid", "dataset", "backbone", "lambda", "seed"]
COUNT_COLUMNS = ["num_params", "epochs"]
LOSS_COLUMNS = ["train_loss", "pred_loss", "sigreg_loss"]
LEARNED_SCORES = ["linear_top1", "knn_top1"]
RANDOM_SCORES = ["random_init_linear_top1", "random_init_knn_top1"]
BASELINES = ["random_init", "raw_pixels"]
HISTORY_COLUMNS = ["epoch", "loss", "pred_loss", "sigreg_loss"]
SCORE = re.compile(r"(?P<baseline>random_init_|raw_pixels_)?(?P<probe>linear|knn)_top1(_(?P<k>\d+)shot)?(?P<std>_std)?")


def collect(
    cells: Iterable[Cell], root: Path, *, run_ids: Mapping[str, str] | None = None, command: str = "dvc repro"
) -> tuple[pd.DataFrame, list[str]]:
    """Gather the metrics of every cell that has them.

    Args:
        cells: cells in the order of the rows.
        root: folder that `cell.folder` is relative to.
        run_ids: MLflow run of each `cell.key`; a cell without one gets an empty string.
        command: what produces a missing file, for the messages.

    Returns:
        One row per complete cell (losses at the last epoch, scores as fractions, alarms as {name: epoch}), and one
        line per other cell that names it, what is wrong with its files and the command that makes them. Nothing is
        filled in, and a cell that collapsed has no learned scores.
    """
    rows, missing = [], []
    for cell in cells:
        try:
            rows.append(_row(cell, root) | {"mlflow_run_id": (run_ids or {}).get(cell.key, "")})
        except ValueError as error:
            missing.append(f"{cell.key}: {error}; run: {command}")
    return pd.DataFrame(rows, columns=_columns(rows)), missing


def _row(cell: Cell, root: Path) -> dict[str, Any]:
    pretrain = _read_metrics(root / cell.folder, "pretrain/metrics.json", [*COUNT_COLUMNS, *LOSS_COLUMNS])
    probe = _read_metrics(root / cell.folder, "probe/metrics.json", LEARNED_SCORES)
    names = dict(zip(CELL_COLUMNS, (cell.grid, cell.dataset, cell.backbone, cell.lamb, cell.seed), strict=True))
    scores, alarms = _scores(probe), _alarms(pretrain)
    if "collapse" in alarms:
        scores |= {name: math.nan for name in scores if not name.startswith(tuple(BASELINES))}
    return names | {name: pretrain[name] for name in [*COUNT_COLUMNS, *LOSS_COLUMNS]} | scores | {"alarms": alarms}


def _read_metrics(folder: Path, name: str, required: Sequence[str]) -> dict[str, Any]:
    try:
        metrics = json.loads((folder / name).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"no {name}") from None
    except ValueError as error:
        raise ValueError(f"{name} is not readable as JSON ({error})") from None
    if not isinstance(metrics, dict):
        raise ValueError(f"{name} must be an object, got {type(metrics).__name__}")
    if absent := [key for key in required if key not in metrics]:
        raise ValueError(f"{name} lacks {', '.join(absent)}")
    for key in required:
        _check_number(metrics[key], f"{name}: {key}")
    for key in COUNT_COLUMNS:
        if key in required and (not isinstance(metrics[key], int) or metrics[key] < 0):
            raise ValueError(f"{name}: {key} must be a whole number >= 0, got {metrics[key]!r}")
    return metrics


def _scores(probe: Mapping[str, Any]) -> dict[str, float]:
    """Keep the scores alone: other metrics (chosen learning rates, timings) need not repeat to the last bit."""
    scores = {name: value for name, value in probe.items() if SCORE.fullmatch(name)}
    for name, value in scores.items():
        _check_number(value, f"probe/metrics.json: {name}")
        if not 0 <= value <= 1:
            raise ValueError(f"probe/metrics.json: {name} must be a fraction in [0, 1], got {value!r}")
    return {name: float(value) for name, value in scores.items()}


def _alarms(pretrain: Mapping[str, Any]) -> dict[str, int]:
    """Alarms that rang in training, {name: epoch}, as tables show them; runs of before there were alarms have none."""
    alarms = pretrain.get("alarms", {})
    if not isinstance(alarms, dict) or not all(type(epoch) is int and epoch > 0 for epoch in alarms.values()):
        raise ValueError(f"pretrain/metrics.json: alarms must be an object of epochs >= 1 by name, got {alarms!r}")
    return shown_alarms(dict(pretrain))


def _check_number(value: Any, what: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{what} must be a finite number, got {value!r}")


def _score_order(name: str) -> tuple:
    found = SCORE.fullmatch(name)
    return (found["baseline"] or "", found["probe"] != "linear", int(found["k"] or 0), bool(found["std"]))


def _columns(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    present = {name for row in rows for name in row if SCORE.fullmatch(name)}
    few_shot = sorted((name for name in present if re.fullmatch(r"linear_top1_\d+shot", name)), key=_score_order)
    baselines = [name for name in RANDOM_SCORES if name in present or not rows]
    front = [*CELL_COLUMNS, *COUNT_COLUMNS, *LOSS_COLUMNS, *LEARNED_SCORES, *few_shot, *baselines]
    front += ["mlflow_run_id", "alarms"]
    return front + sorted(present - set(front), key=_score_order)


def score_columns(frame: pd.DataFrame) -> list[str]:
    """Name the learned scores of a table: linear, k-NN, then few-shot by rising number of shots."""
    return [name for name in frame.columns if re.fullmatch(r"(linear|knn)_top1(_\d+shot)?", name)]


def read_run_ids(table: Path) -> dict[str, str]:
    """Return {cell: MLflow run} of a comparison.csv; a cell is named as in runs/."""
    rows = pd.read_csv(table, dtype=str, keep_default_na=False, usecols=["dataset", *CELL_COLUMNS[2:], "mlflow_run_id"])
    names = "--".join(["{dataset}", "{backbone}", "lambda{lambda}", "seed{seed}"])
    return {names.format_map(row): row["mlflow_run_id"] for row in rows.to_dict("records")}


def to_csv(frame: pd.DataFrame) -> str:
    """Write a table as CSV; equal tables give equal bytes.

    Six significant digits resolve one image in a million and hide the last bits of float32 losses. Lambda is a
    setting, not a measurement, and keeps twelve.
    """
    exact = frame.assign(**{"lambda": frame["lambda"].map("{:.12g}".format), "alarms": frame["alarms"].map(alarm_tag)})
    return exact.to_csv(index=False, float_format="%.6g", lineterminator="\n")


def summarise(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Average the seeds: one plain row per data set, backbone and lambda.

    Args:
        frame: table of `collect`.

    Returns:
        Rows with the columns of `frame` (means over seeds; None where no cell has a value), `run_ids`, `alarms`
        ({seed: {name: epoch}} of the seeds with any) and, for each score, `<score>_std`: over seeds where there are
        several (n - 1 in the denominator), else over the few-shot draws where the probe measured that. Seeds that
        collapsed are in no mean, unless all did; `num_collapsed` says how many, `num_seeds` how many are left.
    """
    return [_summary(group) for _, group in frame.groupby(["dataset", "backbone", "lambda"], sort=False)]


def _summary(group: pd.DataFrame) -> dict[str, Any]:
    row = group.iloc[0][["grid", "dataset", "backbone", "lambda"]].to_dict()
    numbers = [name for name in group.columns if name in LOSS_COLUMNS or SCORE.fullmatch(name)]
    sound = group[~_collapsed(group)]
    shown = group if sound.empty else sound
    row |= shown[numbers].mean().to_dict()
    if len(shown) > 1:
        row |= shown[score_columns(shown)].std().add_suffix("_std").to_dict()
    row = {name: None if isinstance(value, float) and math.isnan(value) else value for name, value in row.items()}
    row |= {name: int(group[name].iloc[0]) for name in COUNT_COLUMNS}
    row |= {"num_seeds": len(sound), "num_collapsed": len(group) - len(sound)}
    rang = {int(seed): alarms for seed, alarms in zip(group["seed"], group["alarms"], strict=True) if alarms}
    return row | {"run_ids": [run for run in group["mlflow_run_id"] if run], "alarms": rang}


def _collapsed(frame: pd.DataFrame) -> pd.Series:
    return frame["alarms"].map(lambda alarms: "collapse" in alarms)


def improvements(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Compare learned features with random initialisation, per data set.

    Returns:
        Rows of `dataset`, `num_cells`, `num_collapsed` (cells left out) and `gains`: for each score that has both
        numbers, the mean of learned minus random over the cells (as a fraction), how many gain, and of how many.
    """
    rows = []
    for dataset, group in frame.groupby("dataset", sort=False):
        gains = {}
        for score in score_columns(frame):
            if f"random_init_{score}" in frame.columns:
                gain = (group[score] - group[f"random_init_{score}"]).dropna()
                if len(gain):
                    gains[score] = {"mean": float(gain.mean()), "num_better": int((gain > 0).sum()), "n": len(gain)}
        num_collapsed = int(_collapsed(group).sum())
        counts = {"num_cells": len(group) - num_collapsed, "num_collapsed": num_collapsed}
        rows.append({"dataset": dataset, **counts, "gains": gains})
    return rows


def histories(cells: Iterable[Cell], root: Path, *, command: str = "dvc repro") -> tuple[list[dict], list[str]]:
    """Read the loss curves of every cell whose pretraining has finished.

    Returns:
        One dict per cell with `dataset`, `backbone`, `lambda`, `seed`, `collapsed` (True or False) and the columns of
        its history.csv as lists, and one line per cell whose history is absent or damaged. Cells that are unfinished
        or whose metrics are damaged are for `collect` to name.
    """
    curves, missing = [], []
    for cell in cells:
        try:
            alarms = _alarms(_read_metrics(root / cell.folder, "pretrain/metrics.json", ()))
        except ValueError:
            continue
        try:
            curve = pd.read_csv(root / cell.folder / "pretrain/history.csv", usecols=HISTORY_COLUMNS).astype(float)
        except (OSError, ValueError) as error:
            missing.append(f"{cell.key}: pretrain/history.csv is absent or damaged ({error}); run: {command}")
            continue
        names = {"dataset": cell.dataset, "backbone": cell.backbone, "lambda": cell.lamb, "seed": cell.seed}
        curves.append(names | {"collapsed": "collapse" in alarms} | curve.to_dict("list"))
    return curves, missing
