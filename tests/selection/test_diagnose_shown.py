"""Claims about where stages.diagnose shows its picks: charts name what they show, whatever the names look like; the
page's section has sentences, tables and charts; in MLflow the picked run alone is tagged, the tag moves with the pick,
again changes nothing, trouble is a warning; files are attached in place of older ones.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path
from xml.etree import ElementTree

import pytest
from cell_record import OPENING
from diagnosed_cells import OUT, enter, put, write_cell, write_grid, write_params

from pipeline.reports import figures_selection, selection_report
from pipeline.reports.figures_selection import charts
from pipeline.reports.page_sections import report_section
from pipeline.selection.correlation import select
from pipeline.selection.criteria import Run
from pipeline.tracking import live_run
from pipeline.tracking.store import Store
from stages import diagnose

pytestmark = pytest.mark.seconds


@pytest.fixture(autouse=True)
def _a_repository(tmp_path, monkeypatch):
    enter(tmp_path, monkeypatch)


def a_grid(num_lambdas, datasets=("d$_1$<i>",)):
    runs = []
    for dataset, i in product(datasets, range(num_lambdas)):
        values = {"train_loss": 1.0 + i, "pred_loss": 0.1 * 10**i, "sigreg_loss": 2.0 - 0.1 * i, "rankme": i}
        runs.append(Run(f"{dataset}--vit--{i}", dataset, "vit", 0.1, 0.9 - i / 10, None, values))
    return runs, select(runs, exponent=0.4, num_draws=100)


def texts(svg):
    return {"".join(node.itertext()) for node in ElementTree.fromstring(svg).iter() if node.tag.endswith("}text")}


def test_charts_name_what_they_show():
    runs, entries = a_grid(4)
    paper = selection_report.read_paper(diagnose.PAPER)
    made = charts(runs, entries, exponent=0.4, label="linear", paper=paper)
    assert list(made) == ["plane-d$_1$<i>", "correlation", "criteria"]
    shown = texts(made["plane-d$_1$<i>"])
    assert {"d$_1$<i>", "vit", "selected without labels", "best by test labels", "linear top-1, %"} <= shown
    assert {"a in loss / λ^a", "the rule, a = 0.4", "the paper"} <= texts(made["correlation"])
    assert {"train loss / λ^0.4, the rule", "train loss / λ^a, hindsight", "rankme"} <= texts(made["criteria"])
    assert figures_selection.plane(runs, runs[0].key, "linear") == made["plane-d$_1$<i>"]


def section(folder=OUT):
    return report_section(folder, "Model selection", "python -m stages.diagnose", Path("reports")).body


def test_the_section_shows_what_the_folder_has():
    write_grid(write_params())
    diagnose.main()
    shown = section()
    assert shown.count("<svg") == 2 and "train loss / λ^0.4, the rule" in shown and "mean over data sets" in shown
    assert "<h3>Embedding health</h3>" in shown and "digits: take digits--test_vit--lambda0.02--seed0" in shown
    ElementTree.fromstring(f"<div>{shown}</div>")


# MLflow


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
