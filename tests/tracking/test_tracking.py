"""Claims about MLflow runs and the files behind them:

1. One cell is one run, however often it is opened, resumed, started afresh or published; no point is logged twice.
2. Publishing is idempotent and replaces a run that says something else than the files.
3. Disagreements name whatever is missing, different, doubled or unfinished, with both values and the file; publishing
   mends all of it. Of several runs of a cell the finished one that agrees is kept.
4. What was watched is a curve health/<name> beside those of the losses; a number that is not finite is no point.
"""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from cell_record import CONFIG, LOSSES, OPENING, ROWS, finished
from mlflow.entities import Metric
from stores import new_store, the_run

from pipeline.tracking.live_run import LiveRun
from pipeline.tracking.record import epoch_metrics
from pipeline.tracking.store import Store

# SQLAlchemy on MLflow's own models.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:sqlalchemy.exc.SADeprecationWarning")


@pytest.fixture
def path(tmp_path) -> Path:
    return new_store(tmp_path)


@pytest.fixture
def store(path) -> Store:
    return Store(path)


def steps(store: Store, name: str = "train/loss") -> list[int]:
    return [point.step for point in store.client.get_metric_history(the_run(store).info.run_id, name)]


# 1. One run


def test_a_run_is_found_by_its_cell_and_continued(store):
    first = store.open_run(OPENING, afresh=True)
    assert store.open_run(OPENING, afresh=False) == first == the_run(store).info.run_id
    again = store.open_run(OPENING, afresh=True)
    assert again != first and the_run(store).info.run_id == again
    other = replace(OPENING, cell="another")
    assert store.open_run(other, afresh=False) not in (first, again)
    assert the_run(store).info.run_id == again


def test_what_a_run_holds(store, path):
    with LiveRun(OPENING, afresh=True, where=path) as live:
        for row in ROWS:
            live.log_epoch(row)
    run = the_run(store)
    assert run.info.status == "RUNNING" and run.info.run_name == OPENING.cell
    axes = {"grid": "default", "dataset": "digits", "backbone": "vit", "lambda": "0.1", "seed": "0"}
    settings = {"pretrain.epochs": "2", "pretrain.views.num_global": "2", "backbone_kwargs.img_size": "32"}
    assert run.data.params == {**axes, **settings}
    assert axes.items() <= run.data.tags.items() and run.data.tags["cell"] == OPENING.cell
    assert run.data.tags["commit"] == "abc-dirty" and run.data.tags["mlflow.source.git.commit"] == "abc"
    assert run.data.metrics == {f"train/{name}": ROWS[1][name] for name in LOSSES}
    assert steps(store) == [1, 2]
    assert json.loads((Path(run.info.artifact_uri) / "pretrain.json").read_text()) == CONFIG


def test_a_resumed_run_logs_no_point_twice(store, path):
    with LiveRun(OPENING, afresh=True, where=path) as live:
        live.log_epoch(ROWS[0])
    with LiveRun(OPENING, afresh=False, where=path) as live:
        for row in ROWS:
            live.log_epoch(row)
    assert steps(store) == [1, 2]
    with LiveRun(OPENING, afresh=True, where=path) as live:
        live.log_epoch(ROWS[0])
    assert steps(store) == [1]


def test_runs_left_over_are_retired(store):
    ids = [store.client.create_run(store.experiment_id, tags=OPENING.tags).info.run_id for _ in range(3)]
    assert store.open_run(OPENING, afresh=False) in ids
    assert the_run(store).info.run_id in ids


# 2. Publishing


def test_publishing_is_idempotent(store):
    run_id = store.publish(finished())
    points = store.points(the_run(store))
    assert store.publish(finished()) == run_id and store.points(the_run(store)) == points
    assert the_run(store).info.status == "FINISHED"
    assert {(point.key, point.step): point.value for point in points} == finished().metrics
    assert store.finished_runs("default") == {OPENING.cell: run_id} and store.finished_runs("table5") == {}


def test_publishing_completes_the_run_of_pretraining(store, path):
    with LiveRun(OPENING, afresh=True, where=path) as live:
        for row in ROWS:
            live.log_epoch(row)
    run_id = the_run(store).info.run_id
    assert store.finished_runs("default") == {}
    assert store.publish(finished()) == run_id and list(store.disagreements(finished())) == []


CHANGES = {
    "param": replace(finished(), params={**finished().params, "probe.knn.k": "7"}),
    "value": replace(finished(), metrics={**finished().metrics, ("probe/linear_top1", 0): 0.91}),
    "last bit": replace(finished(), metrics={**finished().metrics, ("probe/knn_top1", 0): 0.3}),
    "epoch": replace(finished(), metrics={**finished().metrics, ("train/loss", 3): 0.1}),
    "metric": replace(finished(), metrics={**finished().metrics, ("probe/old_top1", 0): 0.1}),
    "setting": replace(finished(), params={**finished().params, "probe.old": "1"}),
}


@pytest.mark.parametrize("logged", CHANGES.values(), ids=CHANGES)
def test_a_run_that_says_something_else_is_replaced(store, logged):
    old = store.publish(logged)
    assert list(store.disagreements(finished())) != []
    assert store.publish(finished()) != old
    assert list(store.disagreements(finished())) == [] and the_run(store).info.status == "FINISHED"


# 3. Disagreements


def duplicate(store):
    run_id = store.publish(finished())
    store.client.log_batch(run_id, metrics=[Metric("train/loss", ROWS[0]["loss"], 1, 1)])


def with_status(status):
    return lambda store: store.client.set_terminated(store.publish(finished()), status)


def left_running(store):
    store.client.update_run(store.publish(finished()), status="RUNNING")


def tagged(name, value):
    def publish(store):
        run_id = store.publish(finished())
        if value is None:
            store.client.delete_tag(run_id, name)
        else:
            store.client.set_tag(run_id, name, value)

    return publish


def without_artifact(store):
    store.publish(finished())
    (Path(the_run(store).info.artifact_uri) / "pretrain.json").unlink()


def with_two_runs(store):
    store.publish(finished())
    store.client.create_run(store.experiment_id, tags=OPENING.tags)


def without(kind, key):
    def publish(store):
        record = finished()
        store.publish(replace(record, **{kind: {k: v for k, v in getattr(record, kind).items() if k != key}}))

    return publish


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda store: None, "0 MLflow runs instead of one"),
        (with_two_runs, "2 MLflow runs instead of one"),
        (with_status("FAILED"), "is FAILED, not FINISHED"),
        (left_running, "is RUNNING, not FINISHED"),
        (tagged("commit", "def"), "tag commit is def in MLflow but abc-dirty in pretrain/provenance.json"),
        (tagged("mlflow.source.git.commit", ""), "tag mlflow.source.git.commit is  in MLflow but abc in pretrain/prov"),
        (tagged("lambda", None), "tag lambda is absent in MLflow but 0.1 in the configs"),
        (tagged("alarms", "collapse@1"), "tag alarms is collapse@1 in MLflow but absent in pretrain/metrics.json"),
        (without_artifact, "artifact pretrain.json is missing in MLflow"),
        (duplicate, "metric train/loss has duplicate points at step 1 in MLflow"),
        (without("params", "probe.knn.k"), "param probe.knn.k is missing in MLflow"),
        (without("metrics", ("train/loss", 2)), "metric train/loss has no point at step 2 in MLflow"),
        (without("metrics", ("probe/knn_top1", 0)), "metric probe/knn_top1 has no point at step 0 in MLflow"),
        (lambda store: store.publish(CHANGES["param"]), "param probe.knn.k is 7 in MLflow but 5 in pretrain.json"),
        (
            lambda store: store.publish(CHANGES["value"]),
            "metric probe/linear_top1 at step 0 is 0.91 in MLflow but 0.9 in probe/metrics.json",
        ),
        (
            lambda store: store.publish(CHANGES["epoch"]),
            "train/loss has a point at step 3 in MLflow, 0.1, but none in pretrain/h",
        ),
        (
            lambda store: store.publish(CHANGES["metric"]),
            "metric probe/old_top1 has a point at step 0 in MLflow, 0.1, but none in probe/",
        ),
        (lambda store: store.publish(CHANGES["setting"]), "param probe.old is 1 in MLflow but absent in pretrain.json"),
    ],
)
def test_every_disagreement_is_named_and_mended(store, spoil, message):
    spoil(store)
    (found,) = store.disagreements(finished())
    assert message in found
    run_id = store.publish(finished())
    points = store.points(the_run(store))
    assert store.disagreements(finished()) == []
    assert store.publish(finished()) == run_id and store.points(the_run(store)) == points


def test_the_finished_run_that_agrees_is_kept(store):
    good = store.publish(finished())
    wrong = store.client.create_run(store.experiment_id, tags=OPENING.tags).info.run_id
    store.client.log_param(wrong, "seed", "7")
    store.client.set_terminated(wrong, "FINISHED")
    store.client.create_run(store.experiment_id, tags=OPENING.tags)  # left by a kill, newer and not wrong
    assert store.publish(finished()) == good == the_run(store).info.run_id


def test_numbers_that_are_not_finite_agree_with_themselves(store):
    odd = {("criteria/rankme", 0): math.nan, ("criteria/lidar", 0): -math.inf, ("probe/x", 0): math.inf}
    record = replace(finished(), metrics={**finished().metrics, **odd})
    run_id = store.publish(record)
    assert store.disagreements(record) == [] and store.publish(record) == run_id


# 4. What was watched


def test_what_was_watched_is_a_curve(store, path):
    rows = [ROWS[0] | {"embedding_rank": 5.5, "projection_norm": math.nan}, ROWS[1] | {"embedding_rank": math.inf}]
    with LiveRun(OPENING, afresh=True, where=path) as live:
        for row in [*rows, *rows]:  # as a run that is continued does
            live.log_epoch(row)
    points = store.points(the_run(store))
    found = {(point.key, point.step): point.value for point in points}
    losses = {key: value for row in ROWS for key, value in epoch_metrics(row).items()}
    assert found == losses | {("health/embedding_rank", 1): 5.5} and len(points) == len(found)
    watched = replace(finished(), metrics={**finished().metrics, **epoch_metrics(rows[0]), ("criteria/lidar", 0): 3.25})
    store.publish(watched)
    assert list(store.disagreements(watched)) == [] and the_run(store).data.metrics["criteria/lidar"] == 3.25
    assert len(list(store.disagreements(finished()))) == 2
