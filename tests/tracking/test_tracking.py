"""Claims about MLflow runs and the files behind them:

1. One cell is one run, however often it is opened, resumed, started afresh or published; no point is logged twice.
   MLflow is not asked before the first epoch; a run that failed is FAILED, one that was interrupted KILLED.
2. Publishing is idempotent, and whatever is missing, different, doubled or unfinished is named with both values and the
   file, and mended: in place, or by another run where MLflow cannot change what it has. The finished run is kept.
3. A number that is not finite agrees with itself.
4. Alarms are a tag and one point each, however often they ring; the tag picked_by follows the files of the picks.
"""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from cell_record import CONFIG, LOSSES, OPENING, ROWS, finished
from mlflow.entities import Metric
from stores import the_run

from pipeline.runtime.errors import Interrupted, NonFiniteLossError
from pipeline.tracking import contents
from pipeline.tracking.live_run import LiveRun
from pipeline.tracking.record import alarm_metrics, recorded_picks
from pipeline.tracking.store import Store

pytestmark = pytest.mark.seconds


def train(path: Path, *rows: dict[str, float], afresh: bool = True) -> None:
    with LiveRun(OPENING, afresh=afresh, where=path) as live:
        for row in rows:
            live.log_epoch(row)


def points(store: Store) -> list[tuple[str, int, float]]:
    return [(point.key, point.step, point.value) for point in contents.points(store.client, the_run(store))]


# 1. One run


def test_a_run_is_found_by_its_cell_and_continued(store):
    first = store.open_run(OPENING, afresh=True)
    assert store.open_run(OPENING, afresh=False) == first == the_run(store).info.run_id
    store.end(first, "KILLED")
    assert store.open_run(OPENING, afresh=False) == first and the_run(store).info.status == "RUNNING"
    again = store.open_run(OPENING, afresh=True)
    assert again != first and the_run(store).info.run_id == again
    assert store.open_run(replace(OPENING, cell="another"), afresh=False) not in (first, again)
    left_over = store.client.create_run(store.experiment_id, tags={"cell": OPENING.cell, "grid": "default"})
    assert store.open_run(OPENING, afresh=False) in (again, left_over.info.run_id)
    assert the_run(store).info.run_id in (again, left_over.info.run_id)


@pytest.mark.parametrize(
    ("earlier", "status"),
    [(finished(), "FINISHED"), (replace(OPENING, params=OPENING.params | {"settings.pretrain.epochs": "9"}), "KILLED")],
)
def test_an_earlier_training_is_not_continued(store, store_path, earlier, status):
    """One that was interrupted inside its first epoch has left a checkpoint and no run."""
    old = store.publish(earlier)
    store.client.set_terminated(old, status)
    train(store_path, ROWS[0] | {"loss": 7.0}, ROWS[1], afresh=False)
    assert the_run(store).info.run_id != old and the_run(store).data.params == OPENING.params
    assert ("train/loss", 1, 7.0) in points(store) and len(points(store)) == 2 * len(LOSSES)


def test_what_a_run_holds(store, store_path):
    train(store_path)
    assert store.runs(OPENING.grid, OPENING.cell) == [], "nothing before the first epoch"
    train(store_path, *ROWS)
    run = the_run(store)
    assert run.info.status == "RUNNING" and run.info.run_name == OPENING.cell
    axes = {"grid": "default", "dataset": "digits", "backbone": "vit", "lambda": "0.1", "seed": "0"}
    settings = {"settings.pretrain.epochs": "2", "settings.backbone_kwargs.img_size": "32"}
    assert run.data.params == OPENING.params and run.data.params | axes | settings == OPENING.params
    source = {
        "mlflow.source.git.commit": "abc",
        "mlflow.source.git.branch": "main",
        "mlflow.source.name": "stages.pretrain",
        "commit": "abc-dirty",
    }
    assert (axes | source | {"cell": OPENING.cell}).items() <= run.data.tags.items()
    assert run.data.metrics == {f"train/{name}": ROWS[1][name] for name in LOSSES}
    assert json.loads((Path(run.info.artifact_uri) / "pretrain.json").read_text()) == CONFIG


def test_a_resumed_run_logs_no_point_twice(store, store_path):
    train(store_path, ROWS[0])
    train(store_path, *ROWS, afresh=False)
    assert [step for name, step, _ in points(store) if name == "train/loss"] == [1, 2]
    train(store_path, ROWS[0])
    assert [step for name, step, _ in points(store) if name == "train/loss"] == [1]


@pytest.mark.parametrize(
    ("error", "status"),
    [(ValueError("bad loss"), "FAILED"), (KeyboardInterrupt(), "KILLED"), (Interrupted(15, "asked to end"), "KILLED")],
)
def test_a_run_that_ended_badly_says_so(store, store_path, error, status):
    with pytest.raises(type(error)), LiveRun(OPENING, afresh=True, where=store_path) as live:
        live.log_epoch(ROWS[0])
        raise error
    assert the_run(store).info.status == status and "alarms" not in the_run(store).data.tags
    store.publish(finished())
    assert store.disagreements(finished()) == []


@pytest.mark.parametrize(("rang", "tag"), [({}, "non_finite"), ({"explosion": 1}, "explosion@1, non_finite")])
def test_a_loss_that_is_not_finite_is_an_alarm(store, store_path, rang, tag):
    with pytest.raises(NonFiniteLossError), LiveRun(OPENING, afresh=True, where=store_path) as live:
        if rang:
            live.log_alerts(rang)
        raise NonFiniteLossError("not finite")
    assert the_run(store).data.tags["alarms"] == tag and the_run(store).info.status == "FAILED"


# 2. Publishing


def test_publishing_completes_the_run_of_pretraining(store, store_path):
    train(store_path, *ROWS)
    run_id, record = the_run(store).info.run_id, replace(finished(), work_s=90.0)
    assert store.finished_runs("default") == {}
    assert store.publish(record) == run_id and store.disagreements(record) == []
    assert {(name, step): value for name, step, value in points(store)} == record.metrics
    assert store.finished_runs("default") == {OPENING.cell: run_id} and store.finished_runs("table5") == {}
    (store.client.delete_run(run_id), store.publish(record))
    assert the_run(store).info.end_time - the_run(store).info.start_time == 90_000, "the training's, not the writing's"


def logged(**fields):
    return lambda store: store.publish(replace(finished(), **fields))


def params(**changed):
    return logged(params=finished().params | {f"settings.probe.{name}": value for name, value in changed.items()})


def metric(name, value, step=0):
    return logged(metrics=finished().metrics | {(name, step): value})


def without_metric(name, step):
    return logged(metrics={point: v for point, v in finished().metrics.items() if point != (name, step)})


def after(spoil):
    """Publish what is right and spoil it: `spoil(client, run id)`."""
    return lambda store: spoil(store.client, store.publish(finished()))


def twice(client, run_id):
    client.log_batch(run_id, metrics=[Metric("train/loss", ROWS[0]["loss"], 1, 1)])


MENDED = [
    (after(lambda client, run: client.set_terminated(run, "FAILED")), "is FAILED in MLflow but FINISHED in"),
    (after(lambda client, run: client.set_tag(run, "commit", "def")), "is def in MLflow but abc-dirty in pretrain/"),
    (after(lambda client, run: client.delete_tag(run, "lambda")), "lambda is absent in MLflow but 0.1 in pretrain."),
    (after(lambda client, run: client.set_tag(run, "alarms", "x@1")), "is x@1 in MLflow but absent in pretrain/metr"),
    (logged(params=OPENING.params), "param settings.probe.knn.k is absent in MLflow but 5 in pretrain.json"),
    (without_metric("train/loss", 2), "metric train/loss at step 2 is absent in MLflow but "),
]  # fmt: skip
REPLACED = [
    (after(twice), f"metric train/loss at step 1 is {ROWS[0]['loss']!r}, {ROWS[0]['loss']!r} in MLflow but"),
    (params(**{"knn.k": "7"}), "param settings.probe.knn.k is 7 in MLflow but 5 in pretrain.json"),
    (metric("probe/linear_top1", 0.91), "probe/linear_top1 at step 0 is 0.91 in MLflow but 0.9 in probe/metrics.json"),
    (metric("train/loss", 0.1, 3), "train/loss at step 3 is 0.1 in MLflow but absent in pretrain/history.csv"),
]


@pytest.mark.parametrize(("spoil", "message", "kept"), [(*m, True) for m in MENDED] + [(*r, False) for r in REPLACED])
def test_every_disagreement_is_named_and_mended(store, spoil, message, kept):
    spoil(store)
    before = the_run(store).info.run_id
    (found,) = store.disagreements(finished())
    assert message in found
    run_id = store.publish(finished())
    assert (run_id == before) == kept and store.disagreements(finished()) == []
    written = points(store)
    assert store.publish(finished()) == run_id and points(store) == written


def test_the_finished_run_that_agrees_is_kept(store):
    assert store.disagreements(finished()) == ["0 MLflow runs instead of one"]
    good = store.publish(finished())
    tags = {"cell": OPENING.cell, "grid": "default"}
    wrong = store.client.create_run(store.experiment_id, tags=tags).info.run_id
    store.client.log_param(wrong, "seed", "7")
    store.client.set_terminated(wrong, "FINISHED")
    store.client.create_run(store.experiment_id, tags=tags)  # left by a kill, newer and not wrong
    assert store.disagreements(finished()) == ["3 MLflow runs instead of one"]
    assert store.publish(finished()) == good == the_run(store).info.run_id


# 3. What was watched


def test_numbers_that_are_not_finite_agree_with_themselves(store):
    odd = {("unlabelled/rankme", 0): math.nan, ("unlabelled/lidar", 0): -math.inf, ("probe/x", 0): math.inf}
    odd[("probe/zero", 0)] = -0.0  # of which a database may keep 0.0
    record = replace(finished(), metrics=finished().metrics | odd)
    run_id = store.publish(record)
    assert store.disagreements(record) == [] and store.publish(record) == run_id


# 4. Alarms and picks


def test_an_alarm_is_a_tag_and_one_point(store, store_path):
    for afresh, alarms in ((True, {"collapse": 1}), (False, {"collapse": 1, "explosion": 2})):
        with LiveRun(OPENING, afresh=afresh, where=store_path) as live:
            live.log_alerts({"collapse": 1})
            live.log_alerts(alarms)
    assert the_run(store).data.tags["alarms"] == "collapse@1, explosion@2"
    assert sorted(points(store)) == [("alarm/collapse", 1, 1.0), ("alarm/explosion", 2, 2.0)]
    rang = {"collapse": 1, "explosion": 2}
    record = replace(finished(), alarms=rang, metrics=finished().metrics | alarm_metrics(rang))
    run_id = the_run(store).info.run_id
    assert store.publish(record) == run_id and store.disagreements(record) == []
    assert store.publish(finished()) != run_id and "alarms" not in the_run(store).data.tags


def test_the_pick_of_a_cell_follows_the_files(store, tmp_path):
    assert recorded_picks(tmp_path / "picks") == {}
    (tmp_path / "digits.json").write_text(json.dumps({"cell": OPENING.cell, "criterion": "a rule"}))
    (tmp_path / "dtd.json").write_text(json.dumps({"absent": "no run"}))
    assert recorded_picks(tmp_path) == {OPENING.cell: "a rule"}
    picked = replace(finished(), picked_by="a rule")
    run_id = store.publish(finished())
    said = "tag picked_by is absent in MLflow but a rule in reports/diagnosis/default/picks"
    assert store.disagreements(picked) == [said]
    assert store.publish(picked) == run_id and the_run(store).data.tags["picked_by"] == "a rule"
    assert store.tag_picks("table5", {}) == [] and store.disagreements(picked) == []
    assert store.tag_picks("default", {"no such cell": "a rule"}) == ["no such cell"]
    assert "picked_by" not in the_run(store).data.tags
