"""Claims about what the tags of an MLflow run tell:

1. A run that failed is FAILED, one that was interrupted is KILLED; one whose loss was not finite is tagged so.
2. Alarms are a tag and one point each, however often they ring; a tag that no file confirms is removed.
3. The tag picked_by follows the files of the picks and stays when the run of a cell is replaced.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from cell_record import OPENING, finished
from stores import new_store, the_run

from pipeline.runtime.errors import Interrupted, NonFiniteLossError
from pipeline.tracking.diff import recorded_picks
from pipeline.tracking.live_run import LiveRun
from pipeline.tracking.record import alarm_metrics
from pipeline.tracking.store import Store

# SQLAlchemy on MLflow's own models.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:sqlalchemy.exc.SADeprecationWarning")


@pytest.fixture
def path(tmp_path) -> Path:
    return new_store(tmp_path)


@pytest.fixture
def store(path) -> Store:
    return Store(path)


# 1. How a run ended


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ValueError("bad loss"), "FAILED"),
        (NonFiniteLossError("not finite"), "FAILED"),
        (KeyboardInterrupt(), "KILLED"),
        (Interrupted(15, "asked to end"), "KILLED"),
        (SystemExit(1), "KILLED"),
    ],
)
def test_a_run_that_ended_badly_says_so(store, path, error, status):
    with pytest.raises(type(error)), LiveRun(OPENING, afresh=True, where=path):
        raise error
    assert the_run(store).info.status == status
    expected = "non_finite" if isinstance(error, NonFiniteLossError) else None
    assert the_run(store).data.tags.get("alarms") == expected
    store.publish(finished())
    assert list(store.disagreements(finished())) == []


# 2. Alarms


def test_an_alarm_is_a_tag_and_one_point(store, path):
    with LiveRun(OPENING, afresh=True, where=path) as live:
        live.log_alerts({"collapse": 1})
        live.log_alerts({"collapse": 1})
    with LiveRun(OPENING, afresh=False, where=path) as live:
        assert "alarms" not in the_run(store).data.tags  # until it rings again
        live.log_alerts({"collapse": 1})
        live.log_alerts({"collapse": 1, "explosion": 2})
    assert the_run(store).data.tags["alarms"] == "collapse@1, explosion@2"
    found = [(point.key, point.step, point.value) for point in store.points(the_run(store))]
    assert sorted(found) == [("alarm/collapse", 1, 1.0), ("alarm/explosion", 2, 2.0)]
    rang = {"collapse": 1, "explosion": 2}
    record = replace(finished(), alarms=rang, metrics=finished().metrics | alarm_metrics(rang))
    run_id = the_run(store).info.run_id
    assert store.publish(record) == run_id and store.disagreements(record) == []
    assert store.publish(finished()) != run_id and "alarms" not in the_run(store).data.tags


def test_an_alarm_that_rang_before_the_loss_was_not_finite_is_kept(store, path):
    with pytest.raises(NonFiniteLossError), LiveRun(OPENING, afresh=True, where=path) as live:
        live.log_alerts({"explosion": 1})
        raise NonFiniteLossError("not finite")
    assert the_run(store).data.tags["alarms"] == "explosion@1, non_finite"


# 3. Picks


def test_the_pick_of_a_cell_follows_the_files(store, tmp_path):
    assert recorded_picks(tmp_path / "picks") == {}
    (tmp_path / "digits.json").write_text(json.dumps({"cell": OPENING.cell, "criterion": "a rule"}))
    picks = recorded_picks(tmp_path)
    store.publish(replace(finished(), metrics={("train/loss", 1): 7.0}))
    ((_, tag, wanted),) = store.wrong_picks("default", picks)
    assert (tag, wanted) == ("", "a rule") and store.wrong_picks("table5", picks) == []
    assert store.tag_picks("default", picks) == [] and store.wrong_picks("default", picks) == []
    store.publish(finished())  # in place of a run with other values
    assert the_run(store).data.tags["picked_by"] == "a rule"
    store.client.set_tag(the_run(store).info.run_id, "picked_by", "another")
    assert len(store.wrong_picks("default", picks)) == len(store.wrong_picks("default", {})) == 1
    store.tag_picks("default", {})
    assert "picked_by" not in the_run(store).data.tags
    assert store.tag_picks("default", {"no such cell": "a rule"}) == ["no such cell"]
