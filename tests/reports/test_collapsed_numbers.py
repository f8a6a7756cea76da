"""Claims about runs that collapsed, in the paper's tables and in the diagnosis: a number of which some seeds collapsed
is the mean of the others and says how many did; one whose every seed collapsed says so in the place of ours; the
diagnosis leaves collapsed runs out and names them."""

from __future__ import annotations

import math

import pytest
from paper_results import write_json, write_pipeline, write_result

from pipeline.reports.paper_pairing import table_numbers
from pipeline.reports.paper_results import read_results
from pipeline.reports.paper_table import shown
from pipeline.selection.runs import read_runs

SCORES = (0.88, 0.90, 0.10)


@pytest.fixture(autouse=True)
def _in_a_temporary_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def listing_with(summaries: dict[int, dict]):
    """Write three seeds of which some have these entries in their pretraining's metrics.json."""
    listing = write_pipeline("paper/t", "dataset,top1\ndigits,90\n", {"seeds": [0, 1, 2]})
    for cell, top1 in zip(listing.cells, SCORES, strict=True):
        write_result(listing, cell, top1)
        write_json(cell.folder / "pretrain/metrics.json", {"num_images": 1438, **summaries.get(cell.seed, {})})
    return listing


def number(summaries: dict[int, dict]) -> dict:
    listing = listing_with(summaries)
    (found,) = table_numbers(listing, read_results(listing, "dvc repro it")[0]).to_dict("records")
    return found


def collapsed_at(epoch: int) -> dict:
    return {"alarms": {"collapse": epoch}, "collapsed": True}


def test_some_seeds():
    found = number({2: collapsed_at(3)})
    assert found["mean"] == pytest.approx(89) and found["missing"] == [] and found["verdict"] == "reproduced"
    assert shown(found, 1) == "89.0 ± 1.4, 1 of 3 collapsed (published 90, −1.0)"


def test_every_seed():
    found = number({0: collapsed_at(3), 1: collapsed_at(3), 2: collapsed_at(5)})
    assert math.isnan(found["mean"]) and found["verdict"] == "differs"
    assert shown(found, 1) == "collapsed (epoch 3, 5) (published 90)"


def test_the_diagnosis():
    losses = {"train_loss": 0.2, "pred_loss": 0.1, "sigreg_loss": 1.0}
    listing = listing_with({0: losses, 1: losses, 2: {**losses, **collapsed_at(4)}})
    found = read_runs(listing, "dvc repro it")
    assert [cell.seed for cell in found.runs] == [0, 1]
    assert f"{listing.cells[2].key}: collapsed at epoch 4; left out of correlations and picks" in found.problems
