"""Contents of the MLflow run of a cell, from the files of the cell."""

from __future__ import annotations

import csv
import json
import math
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pipeline.core.results import curves, read_history, shown_alarms
from pipeline.runtime.errors import ResultError
from pipeline.runtime.files import read_json
from pipeline.runtime.project import REPORTS, tracked_grid
from pipeline.schema.resolved import CellRun, PretrainRun, ProbeRun
from pipeline.settings.cells import Cell
from pipeline.tracking.description import DESCRIPTION, describe
from pipeline.tracking.run_inputs import DataSet, data_sets
from pipeline.tracking.run_weights import weight_artifacts

# Names sort as MLflow's tables do: axes before settings., train/ before what has no labels and what was watched.
SETTINGS = "settings."
AXES = ("grid", "dataset", "backbone", "lambda", "seed")
DIAGNOSIS = REPORTS / "diagnosis"


@dataclass(frozen=True)
class Record:
    """Contents of one run: identity, params, metrics {(name, step): value}, artifacts {name: JSON value, text or file}.

    alarms: {name: epoch} as they rang; shown_alarms: as tables show them. picked_by: the rule that picked the cell's
    weights, "" for none. work_s: seconds that the training took, 0 of a frozen model. ends_s: {epoch: seconds after
    which it ended}. inputs: the packed data sets.
    """

    grid: str
    cell: str
    commit: str
    branch: str
    params: dict[str, str]
    metrics: dict[tuple[str, int], float] = field(default_factory=dict)
    artifacts: dict[str, Any] = field(default_factory=dict)
    axes: tuple[str, ...] = AXES
    alarms: dict[str, int] = field(default_factory=dict)
    shown_alarms: dict[str, int] = field(default_factory=dict)
    picked_by: str = ""
    work_s: float = 0.0
    ends_s: dict[int, float] = field(default_factory=dict)
    inputs: tuple[DataSet, ...] = ()

    @property
    def tags(self) -> dict[str, str]:
        """The tags by which runs are found, filtered and compared; "" stands for none."""
        program = "stages.pretrain" if "pretrain.json" in self.artifacts else "stages.probe"
        return {
            "cell": self.cell,
            "commit": self.commit,
            "mlflow.source.git.commit": self.commit.removesuffix("-dirty"),
            "mlflow.source.git.branch": self.branch,
            "mlflow.source.name": program,
            "mlflow.source.type": "LOCAL",
            "alarms": alarm_tag(self.alarms),
            "picked_by": self.picked_by,
            DESCRIPTION: describe(self.params, self.metrics, self.shown_alarms),
            **{name: self.params[name] for name in self.axes},
        }


def opening_record(run: PretrainRun, source: Mapping[str, Any]) -> Record:
    """Return what a run holds when pretraining starts: its axes, the resolved settings and the data set.

    Args:
        run: settings of the pretraining.
        source: `commit` and `branch` of the code, as provenance.json has them.
    """
    axes, config = _axes(run), run.result_key()
    settings = {name: config[name] for name in ("pretrain", "backbone_kwargs")}
    params = axes | {"objective": run.pretrain.objective} | flatten(settings, SETTINGS)
    code = source["commit"], source.get("branch", "")
    inputs = tuple(data_sets(run, Path(run.data), Path(run.data)))
    return Record(axes["grid"], run.cell, *code, params, {}, {"pretrain.json": config}, tuple(axes), inputs=inputs)


def _axes(run: CellRun) -> dict[str, str]:
    """Return the values that tell a cell from the others of its grid."""
    fixed = (tracked_grid(run.grid), run.dataset, run.backbone, str(run.lamb), str(run.seed))
    axes = dict(zip(AXES, fixed, strict=True))
    if run.target != run.dataset:
        axes["target"] = run.target
    return axes | {name: json.dumps(value).strip('"') for name, value in run.choices.items()}


def cell_record(configs: Path, picks: Mapping[str, str] | None = None) -> Record:
    """Return what the run of a finished cell holds, from the files on disk.

    Args:
        configs: runs/<grid>/configs/<cell>, whose pretrain.json (none for a frozen model) and probe.json name the
            folders of the results.
        picks: {cell: what picked it}; None reads `readable_picks`.

    Raises:
        ResultError: naming the missing or broken file.
    """
    run = ProbeRun.read(configs / "probe.json")
    out, probe = Path(run.out), run.result_key()
    try:
        if run.model:
            record = _frozen_record(run, run.model)
        else:
            record = _trained_record(PretrainRun.read(configs / "pretrain.json"), Path(run.data))
        params = record.params | flatten({"probe": probe["probe"]}, SETTINGS)
        metrics = record.metrics | _numbers("probe", read_json(out / "metrics.json"))
        metrics |= _numbers("unlabelled", read_json(out / "health.json")["criteria"])
    except KeyError as error:
        raise ResultError(
            f"the files of {configs.name} lack {error}, as another version left them; run: dvc repro"
        ) from None
    picks = readable_picks(run.grid) if picks is None else picks
    views = {path.name: path for path in [out / "views.png"] if path.exists()}
    picked_by, artifacts = picks.get(record.cell, ""), record.artifacts | {"probe.json": probe} | views
    return replace(record, params=params, metrics=metrics, artifacts=artifacts, picked_by=picked_by)


def _frozen_record(run: ProbeRun, path: str) -> Record:
    """Return what the run of a frozen model holds before its scores: no losses, and the origin of its weights."""
    model, axes = read_json(Path(path)), _axes(run)
    params, inputs = axes | flatten({"model": model}, SETTINGS), tuple(data_sets(run, None, Path(run.data)))
    return Record(axes["grid"], run.cell, "", "", params, {}, {"model.json": model}, tuple(axes), inputs=inputs)


def _trained_record(run: PretrainRun, probed_on: Path) -> Record:
    out = Path(run.out)
    provenance, summary = read_json(out / "provenance.json"), read_json(out / "metrics.json")
    starved = provenance.get("starved_at")
    alarms = summary.get("alarms", {}) | ({"starvation": starved} if starved else {})
    metrics = _numbers("pretrain", summary) | alarm_metrics(alarms)
    for row in read_history(out / "history.csv"):
        metrics |= epoch_metrics(row)
    usage = provenance.get("usage", [])
    for load in usage:
        metrics |= usage_metrics(load)
    return replace(
        opening_record(run, provenance),
        metrics=metrics,
        artifacts={"pretrain.json": run.result_key()} | weight_artifacts(run),
        alarms=alarms,
        shown_alarms=shown_alarms(summary),
        work_s=provenance.get("wall_s", 0.0),
        ends_s={int(load["epoch"]): load["elapsed_s"] for load in usage},
        inputs=tuple(data_sets(run, Path(run.data), probed_on)),
    )


def recorded_picks(folder: Path) -> dict[str, str]:
    """Return {cell: what picked it} of the files that the diagnosis wrote, reports/diagnosis/<grid>/picks/*.json.

    Raises:
        ResultError: one of them is broken.
    """
    return {cell: rule for path in sorted(folder.glob("*.json")) for cell, rule in _read_pick(path).items()}


def readable_picks(grid: str) -> dict[str, str]:
    """Return the recorded picks of a grid; a file that is broken is named on stderr and costs its own pick alone."""
    found = {}
    for path in sorted((DIAGNOSIS / grid / "picks").glob("*.json")):
        try:
            found |= _read_pick(path)
        except ResultError as error:
            print(f"warning: no tag picked_by: {error}", file=sys.stderr)
    return found


def _read_pick(path: Path) -> dict[str, str]:
    try:
        pick = read_json(path)
    except OSError as error:
        raise ResultError(f"{path} cannot be read ({error}); remove it and run: dvc repro") from None
    if "absent" in pick:
        return {}
    cell, rule = pick.get("cell"), pick.get("criterion")
    if not isinstance(cell, str) or not isinstance(rule, str):
        raise ResultError(f"{path} must name a cell and a criterion; remove it and run: dvc repro")
    return {cell: rule}


def _numbers(prefix: str, values: dict[str, Any]) -> dict[tuple[str, int], float]:
    numbers = {name: value for name, value in values.items() if isinstance(value, int | float)}
    return {(f"{prefix}/{name}", 0): float(value) for name, value in numbers.items()}


def flatten(settings: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """Turn nested settings into params: {'pretrain.views.num_global': '2', ...}."""
    out: dict[str, str] = {}
    for key, value in settings.items():
        name = f"{prefix}{key}"
        out.update(flatten(value, f"{name}.") if isinstance(value, dict) and value else {name: json.dumps(value)})
    return out


def epoch_metrics(row: dict[str, float]) -> dict[tuple[str, int], float]:
    """Return the points of one epoch: {('train/loss', 3): 0.25, ('watch/projection_rank', 3): 12.5, ...}.

    What was watched and is not finite has no point: MLflow would keep another number in its place.
    """
    trained = curves(row)
    losses = {f"train/{name}": row[name] for name in trained}
    watched = {f"watch/{name}": value for name, value in row.items() if name not in ("epoch", *trained)}
    finite = {name: value for name, value in watched.items() if math.isfinite(value)}
    return {(name, int(row["epoch"])): value for name, value in (losses | finite).items()}


def usage_metrics(load: Mapping[str, float]) -> dict[tuple[str, int], float]:
    """Return the points of an epoch's load of the machine: {('system/cpu_utilization_percentage', 3): 97.5, ...}."""
    return {
        (f"system/{name}", int(load["epoch"])): value
        for name, value in load.items()
        if name not in ("epoch", "elapsed_s")
    }


def alarm_tag(alarms: dict[str, int]) -> str:
    """Say which alarms rang at which epoch: collapse@3, explosion@5."""
    return ", ".join(f"{name}@{epoch}" for name, epoch in alarms.items())


def alarm_metrics(alarms: dict[str, int]) -> dict[tuple[str, int], float]:
    """Return the points of alarms: {('alarm/collapse', 3): 3.0}."""
    return {(f"alarm/{name}", epoch): float(epoch) for name, epoch in alarms.items()}


# Column of comparison.csv: where its value comes from in the record.
TABLE_METRICS = {
    "num_params": "pretrain/num_params",
    "epochs": "pretrain/epochs",
    "train_loss": "pretrain/train_loss",
    "pred_loss": "pretrain/pred_loss",
    "sigreg_loss": "pretrain/sigreg_loss",
}


# Columns that a run that collapsed has nothing in.
LEARNED = re.compile(r"(linear|knn)_top1(_\d+shot)?(_std)?")


def comparison_rows(path: Path) -> dict[str, dict[str, str]]:
    """Return {cell: row} of comparison.csv.

    Raises:
        ResultError: it is broken.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = [row for row in csv.DictReader(file) if row["mlflow_run_id"] is not None]
        return {Cell.of_row(row).key: row for row in rows}
    except (KeyError, ValueError, TypeError) as error:
        raise ResultError(f"{path} is broken ({error!r}); run: python -m stages.compare") from None


def table_disagreements(record: Record, row: dict[str, str] | None, run_ids: list[str]) -> Iterator[str]:
    """Name every value of a cell's row in comparison.csv that its files or its MLflow run do not confirm.

    Numbers may differ by the table's rounding (six significant digits).
    """
    again = "run: python -m stages.compare"
    if row is None:
        yield f"no row in comparison.csv; {again}"
        return
    if row["mlflow_run_id"] not in run_ids:
        found = ", ".join(run_ids) or "none"
        yield f"comparison.csv names run {row['mlflow_run_id'] or 'none'}, MLflow has {found}; {again}"
    if (said := alarm_tag(record.shown_alarms)) != row.get("alarms", ""):
        yield f"comparison.csv has alarms {row.get('alarms') or 'none'}, the files say {said or 'none'}; {again}"
    for column, text in row.items():
        if "collapse" in record.shown_alarms and LEARNED.fullmatch(column):
            if text:
                yield f"comparison.csv has {column} {text} of a run that collapsed; {again}"
            continue
        value = record.metrics.get((TABLE_METRICS.get(column, f"probe/{column}"), 0))
        if value is not None and not _reads_as(text, value):
            yield f"comparison.csv has {column} {text}, the files say {value!r}; {again}"


def _reads_as(text: str, value: float) -> bool:
    try:
        return math.isclose(float(text), value, rel_tol=1e-5)
    except ValueError:
        return False
