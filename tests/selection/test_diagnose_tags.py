"""Claims about stages.diagnose and MLflow: the picked run alone is tagged, the tag moves with the pick, again changes
nothing, trouble is a warning; files are attached in place of older ones.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from cell_record import OPENING
from diagnosed_cells import OUT, enter, put, write_cell, write_grid, write_params

from pipeline.tracking import live_run
from pipeline.tracking.store import Store
from stages import diagnose

pytestmark = pytest.mark.seconds


@pytest.fixture(autouse=True)
def _a_repository(tmp_path, monkeypatch):
    enter(tmp_path, monkeypatch)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("store")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)  # where the artifacts will be
        return Store(folder / "mlflow.db")


def tagged(store, grid="default"):
    runs = store.client.search_runs([store.experiment_id], f"tags.grid = '{grid}'")
    return {run.data.tags["cell"]: run.data.tags["picked_by"] for run in runs if "picked_by" in run.data.tags}


def test_the_tag_moves_with_the_pick(store, monkeypatch, capsys):
    listing = write_params(datasets=["digits"], backbones=["test_vit"], seeds=[0])
    monkeypatch.setattr(live_run, "open_store", lambda: store)
    first, second = (cell.key for cell in listing.cells)
    for cell, grid in ((first, "default"), (second, "default"), ("other", "table5")):
        store.client.create_run(store.experiment_id, tags={"cell": cell, "grid": grid})
    store.tag_picks("table5", {"other": "another rule"})
    write_grid(listing)
    diagnose.main()
    assert tagged(store) == {first: "train_loss/lambda^0.4"}
    with monkeypatch.context() as patch:  # again, there is nothing to do
        patch.setattr(store.client, "set_tag", None)
        patch.setattr(store.client, "delete_tag", None)
        diagnose.main()
    assert capsys.readouterr().err == ""
    write_cell(listing, listing.cells[1], 1e-6, 0.5)
    diagnose.main()
    assert tagged(store) == {second: "train_loss/lambda^0.4"} and tagged(store, "table5") == {"other": "another rule"}
    assert store.tag_picks("default", {}) == [] and tagged(store) == {}
    assert capsys.readouterr().err == ""


def test_trouble_with_the_store_is_a_warning(monkeypatch, capsys):
    def unreachable():
        raise OSError("database is locked")

    write_grid(write_params(datasets=["digits"]))
    monkeypatch.setattr(live_run, "open_store", unreachable)
    diagnose.main()
    assert capsys.readouterr().err == "warning: no tags in MLflow: OSError: database is locked\n"
    assert (OUT / "picks/digits.json").exists()


def test_files_are_attached_in_place_of_older_ones(store, tmp_path):
    run_id = store.open_run(replace(OPENING, cell="with files"), afresh=True)
    for text in ("old", "new"):
        put(tmp_path / "a.txt", text)
        assert store.attach(OPENING.grid, "with files", [tmp_path / "a.txt"], "density")
    found = store.client.list_artifacts(run_id, "density")
    assert [file.path for file in found] == ["density/a.txt"]
    artifacts = Path(store.client.get_run(run_id).info.artifact_uri)
    assert (artifacts / "density/a.txt").read_text() == "new"
    assert not store.attach(OPENING.grid, "no such cell", [tmp_path / "a.txt"], "density")
