"""Reading and writing of one MLflow run, as facts. Importing this takes MLflow's seconds."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, FileInfo, InputTag, Metric, Param, Run, RunTag

from pipeline.tracking.diff import Fact, differences, facts, point_facts
from pipeline.tracking.record import Record
from pipeline.tracking.run_inputs import DataSet

# MLflow's limits for one log_batch call.
MAX_METRICS, MAX_PARAMS = 1000, 100


def points(client: MlflowClient, run: Run) -> list[Metric]:
    """Return every point of a run's metrics."""
    names = sorted(run.data.metrics)
    return [point for name in names for point in client.get_metric_history(run.info.run_id, name)]


def held(client: MlflowClient, run: Run, record: Record) -> dict[Fact, str]:
    """Return all that a run holds, artifacts as compared with those of a record."""
    files = client.list_artifacts(run.info.run_id)
    inputs = run.inputs.dataset_inputs if run.inputs else []
    return {
        Fact("status", "of the run"): run.info.status,
        **{Fact("tag", name): value for name, value in run.data.tags.items()},
        **{Fact("param", name): value for name, value in run.data.params.items()},
        **point_facts((point.key, point.step, point.value) for point in points(client, run)),
        **{Fact("input", data.dataset.name): data.dataset.digest for data in inputs},
        **{Fact("artifact", file.path): _compared(client, run, file, record) for file in files},
    }


def _compared(client: MlflowClient, run: Run, file: FileInfo, record: Record) -> str:
    """Return `kept` for an artifact that a record has as well, else `another`; of a file and a text by its size."""
    if file.path not in record.artifacts:
        return "another"
    wanted = record.artifacts[file.path]
    if not isinstance(wanted, dict):
        size = wanted.stat().st_size if isinstance(wanted, Path) else len(wanted.encode())
        return "kept" if file.file_size == size else "another"
    with TemporaryDirectory() as folder:
        content = Path(client.download_artifacts(run.info.run_id, file.path, folder)).read_bytes()
    try:
        found = json.loads(content)
    except ValueError:
        return "another"
    # As text, in which a number that is none is itself.
    found, wanted = (json.dumps(value, sort_keys=True, default=str) for value in (found, wanted))
    return "kept" if found == wanted else "another"


def mend(client: MlflowClient, run: Run, record: Record, status: str) -> None:
    """Write whatever of the record the run lacks; its status last, and as its duration that of the training."""
    run_id = run.info.run_id
    found = differences(held(client, run, record), facts(record, status), record)
    lacking = {difference.fact: difference.wanted for difference in found if difference.mendable}
    tags = {fact.name: value for fact, value in lacking.items() if fact.kind == "tag"}
    params = [Param(fact.name, value) for fact, value in lacking.items() if fact.kind == "param"]
    client.log_batch(run_id, tags=[RunTag(name, value) for name, value in tags.items() if value])
    for name in (name for name, value in tags.items() if not value):
        client.delete_tag(run_id, name)
    for start in range(0, len(params), MAX_PARAMS):
        client.log_batch(run_id, params=params[start : start + MAX_PARAMS])
    absent = {(fact.name, fact.step) for fact in lacking if fact.kind == "metric"}
    ends = {step: run.info.start_time + int(end * 1000) for step, end in record.ends_s.items()}
    log_points(client, run_id, {point: record.metrics[point] for point in sorted(absent)}, ends)
    inputs = [_input(data) for data in record.inputs if Fact("input", data.name) in lacking]
    if inputs:
        client.log_inputs(run_id, inputs)
    for name in record.artifacts:
        if Fact("artifact", name) in lacking:
            _log_artifact(client, run_id, name, record.artifacts[name])
    if status == "RUNNING":
        client.update_run(run_id, status)
    elif run.info.status != status:
        end = run.info.start_time + int(record.work_s * 1000) if record.work_s else None
        client.set_terminated(run_id, status, end)


def _log_artifact(client: MlflowClient, run_id: str, name: str, content: Any) -> None:
    if isinstance(content, Path):
        client.log_artifact(run_id, str(content))
    elif isinstance(content, str):
        client.log_text(run_id, content, name)
    else:
        client.log_dict(run_id, content, name)


def log_points(
    client: MlflowClient,
    run_id: str,
    points: Mapping[tuple[str, int], float],
    times: Mapping[int, int] | None = None,
) -> None:
    """Log points {(name, step): value} that the run does not have; {step: ms} says when they were, else now."""
    now, times = int(time.time() * 1000), times or {}
    metrics = [Metric(name, value, times.get(step, now), step) for (name, step), value in points.items()]
    for start in range(0, len(metrics), MAX_METRICS):
        client.log_batch(run_id, metrics=metrics[start : start + MAX_METRICS])


def _input(data: DataSet) -> DatasetInput:
    dataset = Dataset(data.name, data.digest, "local", data.source, data.schema, data.profile)
    return DatasetInput(dataset, [InputTag("mlflow.data.context", data.context)])
