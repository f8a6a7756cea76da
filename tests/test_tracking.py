"""Claims about MLflow runs and the files behind them:

1. One cell is one run, however often it is opened, resumed, started afresh or published; no point is logged twice.
2. Publishing is idempotent and replaces a run that says something else than the files.
3. Disagreements name whatever is missing, different, doubled or unfinished; publishing mends all of it.
4. Several processes may open a new store at the same moment; it is in WAL mode.
5. A store that cannot be used is one warning that says how to mend it; training goes on.
6. A run that failed is FAILED, one that was interrupted is KILLED.
7. What was watched is a curve health/<name> beside those of the losses; a number that is not finite is no point.
"""

from __future__ import annotations

import json
import math
import multiprocessing
import sqlite3
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from cell_record import CONFIG, LOSSES, OPENING, ROWS, finished
from mlflow.entities import Metric

from pipeline.results import epoch_metrics
from pipeline.tracking import LiveRun, Store, publish_or_warn

# SQLAlchemy on MLflow's own models.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:sqlalchemy.exc.SADeprecationWarning")


@pytest.fixture(scope="module")
def template(tmp_path_factory) -> bytes:
    """A store with nothing in it; creating one takes MLflow a second."""
    folder = tmp_path_factory.mktemp("store")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)  # where the artifacts will be
        Store(folder / "mlflow.db")
    with closing(sqlite3.connect(folder / "mlflow.db")) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return (folder / "mlflow.db").read_bytes()


@pytest.fixture
def path(tmp_path, template) -> Path:
    """A new store; absolute, since MLflow keeps one engine for each address as it is written."""
    (tmp_path / "mlflow.db").write_bytes(template)
    return tmp_path / "mlflow.db"


@pytest.fixture
def store(path) -> Store:
    return Store(path)


def the_run(store: Store):
    (run,) = store.runs(OPENING.grid, OPENING.cell)
    return run


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
    with LiveRun(OPENING, afresh=True, path=path) as live:
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
    with LiveRun(OPENING, afresh=True, path=path) as live:
        live.log_epoch(ROWS[0])
    with LiveRun(OPENING, afresh=False, path=path) as live:
        for row in ROWS:
            live.log_epoch(row)
    assert steps(store) == [1, 2]
    with LiveRun(OPENING, afresh=True, path=path) as live:
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
    with LiveRun(OPENING, afresh=True, path=path) as live:
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
        (duplicate, "metric train/loss has duplicate points at step 1 in MLflow"),
        (without("params", "probe.knn.k"), "param probe.knn.k is missing in MLflow"),
        (without("metrics", ("train/loss", 2)), "metric train/loss has no point at step 2 in MLflow"),
        (without("metrics", ("probe/knn_top1", 0)), "metric probe/knn_top1 has no point at step 0 in MLflow"),
        (lambda store: store.publish(CHANGES["param"]), "param probe.knn.k is 7 in MLflow but 5 on disk"),
        (
            lambda store: store.publish(CHANGES["value"]),
            "metric probe/linear_top1 at step 0 is 0.91 in MLflow but",
        ),
        (lambda store: store.publish(CHANGES["epoch"]), "metric train/loss has a point at step 3 in MLflow but not on"),
        (
            lambda store: store.publish(CHANGES["metric"]),
            "metric probe/old_top1 has a point at step 0 in MLflow but",
        ),
        (lambda store: store.publish(CHANGES["setting"]), "param probe.old is 1 in MLflow but absent on disk"),
    ],
)
def test_every_disagreement_is_named_and_mended(store, spoil, message):
    spoil(store)
    (found,) = store.disagreements(finished())
    assert message in found
    store.publish(finished())
    assert list(store.disagreements(finished())) == []


# 4. Several processes


# Forked, since four imports of MLflow take 20 s; Python 3.12 warns of threads in the parent, none of which is used.
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_processes_may_open_a_new_store_at_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    processes = multiprocessing.get_context("fork")
    path, together = tmp_path / "mlflow.db", processes.Barrier(4)

    def open_and_publish(cell: str) -> None:
        together.wait(timeout=30)
        Store(path).publish(replace(finished(), cell=cell))

    started = [processes.Process(target=open_and_publish, args=(f"cell{i}",)) for i in range(4)]
    for process in started:
        process.start()
    for process in started:
        process.join(timeout=60)
    assert [process.exitcode for process in started] == [0] * 4
    store = Store(path)
    for i in range(4):
        assert list(store.disagreements(replace(finished(), cell=f"cell{i}"))) == []
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_opening_again_changes_nothing(store, path):
    assert Store(path).experiment_id == store.experiment_id
    assert len(store.client.search_experiments()) == 2  # MLflow's own "Default" beside ours


# 5. A store that cannot be used


@pytest.mark.parametrize("kind", ["directory", "garbage", "no folder"])
def test_a_broken_store_is_one_warning_at_once(tmp_path, kind):
    path = tmp_path / "mlflow.db"
    if kind == "directory":
        path.mkdir()
    elif kind == "garbage":
        path.write_bytes(b"this is no database " * 100)
    else:
        path = tmp_path / "nowhere" / "mlflow.db"
    begun = time.monotonic()
    with (
        pytest.warns(UserWarning, match=r"tracking stopped for digits--vit.*python -m stages.sync") as caught,
        LiveRun(OPENING, afresh=True, path=path) as live,
    ):
        for row in ROWS:
            live.log_epoch(row)
    assert len(caught) == 1
    with pytest.warns(UserWarning, match="tracking stopped"):
        publish_or_warn(finished(), path)
    assert time.monotonic() - begun < 5


def test_a_store_that_becomes_read_only(store, path, monkeypatch):
    def refuse(*_, **__):
        raise sqlite3.OperationalError("attempt to write a readonly database")

    with LiveRun(OPENING, afresh=True, path=path) as live:
        live.log_epoch(ROWS[0])
        monkeypatch.setattr(type(live._store.client), "log_batch", refuse)
        with pytest.warns(UserWarning, match="OperationalError: attempt to write a readonly database"):
            live.log_epoch(ROWS[1])
        monkeypatch.undo()
        live.log_epoch(ROWS[1])  # no second warning, and no half-logged curve
    store.publish(finished())
    assert list(store.disagreements(finished())) == []


def test_a_good_store_warns_of_nothing(store, path):
    publish_or_warn(finished(), path)
    assert the_run(store).info.status == "FINISHED"


# 6. How a run ended


@pytest.mark.parametrize(
    ("error", "status"),
    [(ValueError("bad loss"), "FAILED"), (KeyboardInterrupt(), "KILLED"), (SystemExit(1), "KILLED")],
)
def test_a_run_that_ended_badly_says_so(store, path, error, status):
    with pytest.raises(type(error)), LiveRun(OPENING, afresh=True, path=path):
        raise error
    assert the_run(store).info.status == status
    store.publish(finished())
    assert list(store.disagreements(finished())) == []


# 7. What was watched


def test_what_was_watched_is_a_curve(store, path):
    rows = [ROWS[0] | {"embedding_rank": 5.5, "projection_norm": math.nan}, ROWS[1] | {"embedding_rank": math.inf}]
    with LiveRun(OPENING, afresh=True, path=path) as live:
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
