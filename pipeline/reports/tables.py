"""Results of a grid's cells as DataFrames.

A `score` is a fraction in [0, 1]: `linear_top1`, `knn_top1`, `linear_top1_<k>shot`. The same names with the prefix
`random_init_` or `raw_pixels_` are its baselines, with the suffix `_std` its spread over few-shot draws.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from pipeline.core.results import curves, read_history, shown_alarms
from pipeline.reports.render import csv_text
from pipeline.reports.run_facts import COSTS, FACTS, run_facts
from pipeline.runtime.errors import ResultError
from pipeline.runtime.files import is_number, read_json
from pipeline.tracking.record import alarm_tag

if TYPE_CHECKING:
    from pipeline.settings.cells import Cell

GROUP = ["dataset", "backbone", "lambda"]  # what seeds are averaged within
CELL_COLUMNS = ["grid", *GROUP, "seed"]
HISTORY_COLUMNS = [*GROUP, "seed", "collapsed", "epoch", "loss"]  # and the parts of the loss
COUNT_COLUMNS = ["num_params", "epochs"]
LOSS_COLUMNS = ["train_loss", "pred_loss", "sigreg_loss"]  # an objective that lacks one of the parts has none
LEARNED_SCORES = ["linear_top1", "knn_top1"]
BASELINES = ["random_init_", "raw_pixels_"]
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
        except ResultError as error:
            missing.append(f"{cell.key}: {error}".replace("dvc repro", command))
    return pd.DataFrame(rows, columns=_columns({name for row in rows for name in row})), missing


def _row(cell: Cell, root: Path) -> dict[str, Any]:
    path = root / cell.folder / "pretrain/metrics.json"
    pretrain = read_json(path)
    scores = read_scores(root / cell.folder / "probe/metrics.json", LEARNED_SCORES)
    parts = [name for name in LOSS_COLUMNS if name == "train_loss" or name in pretrain]
    for name in (*COUNT_COLUMNS, *parts):
        _check(is_number(pretrain.get(name)), path, f"{name} must be a finite number", pretrain.get(name, "none"))
    for name in COUNT_COLUMNS:
        whole = isinstance(pretrain[name], int) and pretrain[name] >= 0
        _check(whole, path, f"{name} must be a whole number >= 0", pretrain[name])
    names = {"grid": cell.grid, "dataset": cell.dataset, "backbone": cell.backbone, "lambda": cell.lamb}
    alarms = read_alarms(path, pretrain)
    if "collapse" in alarms:
        scores |= {name: math.nan for name in scores if not name.startswith(tuple(BASELINES))}
    measured = {name: pretrain.get(name, math.nan) for name in (*COUNT_COLUMNS, *LOSS_COLUMNS)}
    objective = pretrain.get("objective", "lejepa")  # older runs had no other
    facts = run_facts(path.parent, root / "runs" / cell.grid / "configs" / cell.key / "probe.json")
    return {**names, "seed": cell.seed, **measured, **scores, "alarms": alarms, "objective": objective, **facts}


def read_scores(path: Path, required: Iterable[str] = ()) -> dict[str, float]:
    """Read the scores of a probe; other metrics (chosen learning rates, timings) are left out.

    Raises:
        ResultError: the file is absent or broken, or a score is none; the message names it and the remedy.
    """
    metrics = read_json(path)
    scores = {name: value for name, value in metrics.items() if SCORE.fullmatch(name)}
    for name in required:
        _check(name in scores, path, f"{name} must be a fraction in [0, 1]", "none")
    for name, value in scores.items():
        _check(is_number(value) and 0 <= value <= 1, path, f"{name} must be a fraction in [0, 1]", value)
    return {name: float(value) for name, value in scores.items()}


def read_alarms(path: Path, summary: dict[str, Any]) -> dict[str, int]:
    """Return the alarms of a pretraining's metrics.json, {name: epoch}; older runs have none."""
    alarms = summary.get("alarms", {})
    sound = isinstance(alarms, dict) and all(type(epoch) is int and epoch > 0 for epoch in alarms.values())
    _check(sound, path, "alarms must be an object of epochs >= 1 by name", alarms)
    return shown_alarms(summary)


def _check(fine: bool, path: Path, rule: str, value: Any) -> None:
    if not fine:
        raise ResultError(f"{path}: {rule}, got {value!r}; remove it and run: dvc repro")


def _columns(present: set[str]) -> list[str]:
    """Order the columns of comparison.csv; what came later stands at the end."""

    def order(name: str) -> tuple:
        found = SCORE.fullmatch(name)
        return (found["baseline"] or "", found["probe"] != "linear", int(found["k"] or 0), bool(found["std"]))

    scores = sorted(filter(SCORE.fullmatch, present), key=order)
    few_shot = [name for name in scores if re.fullmatch(r"linear_top1_\d+shot", name)]
    random = [name for name in ("random_init_linear_top1", "random_init_knn_top1") if name in present or not present]
    front = [*CELL_COLUMNS, *COUNT_COLUMNS, *LOSS_COLUMNS, *LEARNED_SCORES, *few_shot, *random]
    front += ["mlflow_run_id", "alarms", "objective"]
    return front + [name for name in scores if name not in front] + list(FACTS)


def score_columns(frame: pd.DataFrame) -> list[str]:
    """Name the learned scores of a table: linear, k-NN, then few-shot by rising number of shots."""
    return [name for name in frame.columns if re.fullmatch(r"(linear|knn)_top1(_\d+shot)?", name)]


def to_csv(frame: pd.DataFrame) -> str:
    """Write comparison.csv. Lambda is a setting, not a measurement, and keeps twelve digits."""
    return csv_text(
        frame.assign(**{"lambda": frame["lambda"].map("{:.12g}".format), "alarms": frame["alarms"].map(alarm_tag)})
    )


def summarise(frame: pd.DataFrame) -> pd.DataFrame:
    """Average the seeds: one row per data set, backbone and lambda.

    Args:
        frame: table of `collect`.

    Returns:
        The columns of `frame` as means over seeds (nan where no cell has a value), `run_ids` (a list), `alarms`
        ({seed: {name: epoch}} of the seeds with any) and, for scores, loss, seconds and images/s, `<name>_std`:
        over seeds where there are several (n - 1 in the denominator), else over the few-shot draws where the probe
        measured that. Seeds that collapsed are in no mean of scores and losses, unless all did; `num_collapsed` says
        how many, `num_seeds` how many are left. Of FACTS each is put together as it says.
    """
    frame = frame.assign(collapsed=_collapsed(frame))
    numbers = [name for name in frame.columns if name in LOSS_COLUMNS or SCORE.fullmatch(name)]
    groups = frame.groupby(GROUP, sort=False)
    shown = frame[~frame["collapsed"] | groups["collapsed"].transform("all")].groupby(GROUP, sort=False)
    costs = [name for name in COSTS.values() if FACTS[name] == "mean"]
    spread = shown[[*score_columns(frame), "train_loss"]].std().join(groups[costs].std())
    means, spread = shown[numbers].mean(), spread.add_suffix("_std")
    out = (
        groups[[*COUNT_COLUMNS, "objective"]]
        .first()
        .join(spread.combine_first(means).reindex(columns=[*numbers, *spread.columns.difference(numbers)]))
    )
    out = out.join(groups[list(FACTS)].agg(FACTS))
    out["num_collapsed"] = groups["collapsed"].sum()
    out["num_seeds"] = groups.size() - out["num_collapsed"]
    out["run_ids"] = groups["mlflow_run_id"].agg(lambda ids: [run for run in ids if run])
    rang = frame.assign(
        rang=[{seed: alarms} if alarms else {} for seed, alarms in zip(frame["seed"], frame["alarms"], strict=True)]
    )
    out["alarms"] = rang.groupby(GROUP, sort=False)["rang"].agg(
        lambda found: {k: v for one in found for k, v in one.items()}
    )
    return out.reset_index()


def _collapsed(frame: pd.DataFrame) -> pd.Series:
    return frame["alarms"].map(lambda alarms: "collapse" in alarms).astype(bool)


def improvements(frame: pd.DataFrame) -> pd.DataFrame:
    """Compare learned features with random initialisation, per data set.

    Returns:
        Rows of `dataset`, `num_cells`, `num_collapsed` (cells left out) and, for each score that some cell has both
        numbers of, `<score>`: the mean of learned minus random over the cells (a fraction), `<score>_better`: how many
        gain, and `<score>_n`: of how many.
    """
    groups = frame.assign(num_collapsed=_collapsed(frame)).groupby("dataset", sort=False)
    out = groups[["num_collapsed"]].sum()
    out.insert(0, "num_cells", groups.size() - out["num_collapsed"])
    for score in score_columns(frame):
        if f"random_init_{score}" in frame.columns:
            gain = (frame[score] - frame[f"random_init_{score}"]).dropna()
            by_set = gain.groupby(frame["dataset"])
            if len(gain):
                columns = {score: by_set.mean(), f"{score}_better": (gain > 0).groupby(frame["dataset"]).sum()}
                out = out.join(pd.DataFrame({**columns, f"{score}_n": by_set.size()}))
    return out.reset_index()


def histories(cells: Iterable[Cell], root: Path, *, command: str = "dvc repro") -> tuple[pd.DataFrame, list[str]]:
    """Read the loss curves of every cell whose pretraining has finished.

    Returns:
        A row per cell and epoch: dataset, backbone, lambda, seed, `collapsed` (True or False), epoch, loss and its
        parts (nan in the rows of an objective that lacks one); and one line per cell whose history is absent or
        damaged. Cells that are unfinished or whose metrics are damaged are for `collect` to name.
    """
    found, missing = [], []
    for cell in cells:
        path = root / cell.folder / "pretrain/metrics.json"
        try:
            alarms = read_alarms(path, read_json(path))
        except ResultError:
            continue
        try:
            history = read_history(path.with_name("history.csv"))
        except ResultError as error:
            missing.append(f"{cell.key}: {error}".replace("dvc repro", command))
            continue
        names = {"dataset": cell.dataset, "backbone": cell.backbone, "lambda": cell.lamb, "seed": cell.seed}
        curve = pd.DataFrame(history)[["epoch", *curves(history[0])]].drop(columns="lr")
        found.append(curve.assign(**names, collapsed="collapse" in alarms))
    frame = pd.concat(found) if found else pd.DataFrame(columns=HISTORY_COLUMNS)
    return frame[[*HISTORY_COLUMNS, *frame.columns.difference(HISTORY_COLUMNS, sort=False)]], missing


def headline(rows: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """Return what `dvc metrics` and `dvc exp show` have as columns: of each data set the row of highest `linear_top1`.

    That is what the grid reaches on test images; which run to take is told without them, by `stages.diagnose`.

    Args:
        rows: of `summarise`.

    Returns:
        {data set: backbone, lambda, linear, k-NN and few-shot accuracy (of most shots), baselines of the linear
        probe}; nothing of a data set whose runs all collapsed, nor of what was not measured.
    """
    scores = score_columns(rows)
    names = dict.fromkeys(
        [*GROUP[1:], *scores[:2], *scores[-1:], *(f"{baseline}linear_top1" for baseline in BASELINES)]
    )
    sound = rows.dropna(subset="linear_top1")
    best = sound.loc[sound.groupby("dataset", sort=False)["linear_top1"].idxmax()].set_index("dataset")
    shown = best.reindex(columns=[*names]).round(6)
    return {str(dataset): row.dropna().to_dict() for dataset, row in shown.iterrows()}
