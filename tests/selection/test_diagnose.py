"""Claims about stages.diagnose and what it writes.

1. From finished cells it writes table, report, summary, charts and picks; the picks name weights with their checksum.
2. Run twice it writes the same bytes, and what an older grid left is removed.
3. One sentence a data set: which run, by how much, how sure; few runs, an interval around 0 and lambda 0 are said.
4. Cells without results or health are named with the command; frozen models are no runs.
5. Tasks that are probed otherwise are kept apart; runs that differ in other axes are one group; settings that change
   what the loss measures are named where runs of one task differ in them, be it by an axis or by an override.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
from diagnosed_cells import GRID, OUT, enter, entry, files, put, write_cell, write_grid, write_params
from paper_results import write_pipeline

from pipeline.reports import selection_text
from pipeline.reports.render import literal
from pipeline.schema.resolved_analyses import Shown
from pipeline.selection.correlation import Entry
from pipeline.selection.runs import incomparable_settings
from stages import diagnose

pytestmark = pytest.mark.seconds


@pytest.fixture(autouse=True)
def _a_repository(tmp_path, monkeypatch, request):
    enter(tmp_path, monkeypatch, drawn="drawn" in request.fixturenames)


@pytest.fixture
def drawn():
    """Ask for the charts as they are."""


# 1. What is written


def test_everything_is_written(drawn, capsys):
    write_grid(write_params(datasets=["digits"]))
    diagnose.main()
    charts = ("correlation", "criteria", "plane-digits", "spectra-digits", "epps-pulley-digits", "health-digits")
    others = {"table.csv", "report.md", "summary.json", "picks/digits.json"}
    assert files().keys() == others | {f"{name}.svg" for name in charts}
    for path in OUT.glob("*.svg"):
        ElementTree.fromstring(path.read_text(encoding="utf-8"))
    said = capsys.readouterr()
    assert said.out.count("\n") == 1 and said.err == ""


def test_the_table_has_the_numbers_of_the_files():
    listing = write_params()
    write_grid(listing)
    diagnose.main()
    found = entry()
    assert found.rho == pytest.approx(1) and found.num_runs == 8
    assert found.pick == "digits--test_vit--lambda0.02--seed0"
    assert (found.accuracy, found.best, found.by_holdout, found.regret) == (0.9, 0.9, 0.9, 0)
    assert found.random == pytest.approx(0.83) and entry(name="rankme", a=None).rho == pytest.approx(1)
    assert entry(name="lidar", a=None) is None and entry("all").num_runs == 16


def test_picks_name_the_weights():
    listing = write_params()
    write_grid(listing)
    diagnose.main()
    found = json.loads((OUT / "picks/digits.json").read_text(encoding="utf-8"))
    key = "digits--test_vit--lambda0.02--seed0"
    weights = f"runs/default/{key}/pretrain/backbone.safetensors"
    named = {"dataset": "digits", "criterion": "train_loss/lambda^0.4", "cell": key, "backbone": "test_vit"}
    checksum = hashlib.sha256(Path(weights).read_bytes()).hexdigest()
    shown = Shown.of(listing.params.pretrain, listing.params.probe).model_dump()
    place = {"lambda": 0.02, "seed": 0, "weights": weights, "sha256": checksum, "shown": shown}
    other = "digits--test_byobnet--lambda0.02--seed0"
    assert found.pop("by_backbone") == {
        "test_byobnet": {
            "cell": other,
            "lambda": 0.02,
            "seed": 0,
            "weights": f"runs/default/{other}/pretrain/backbone.safetensors",
            "sha256": hashlib.sha256(f"weights of {other}".encode()).hexdigest(),
            "shown": shown,
        },
        "test_vit": {"cell": key, **place},
    }
    assert found == {**named, **place}


# 2. Repeatable


def test_repeats_to_the_byte_and_removes_what_is_old():
    listing = write_params(datasets=["digits"])
    write_grid(listing)
    diagnose.main()
    first = files()
    put(OUT / "picks/gone.json", {})
    put(OUT / "plane-gone.svg", "<svg/>")
    diagnose.main()
    assert files() == first


# 3. Sentences


def test_the_sentence_says_which_and_how_sure(capsys):
    listing = write_params(datasets=["digits"])
    write_grid(listing)
    for cell, accuracy in zip(listing.cells, (0.83, 0.9, 0.7, 0.75, 0.8, 0.6, 0.72, 0.65), strict=True):
        write_cell(listing, cell, (1 + listing.cells.index(cell) / 10) * float(cell.lamb) ** 0.4, accuracy)
    diagnose.main()
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(
        "digits: take digits--test_vit--lambda0.02--seed0 (lowest train_loss/lambda^0.4 of 8 runs, 10.0 % below the "
        "next), whose linear accuracy of 83.0 is 7.0 points under the best run by test labels and +8.6 against a "
        "random pick; loss and accuracy agree with ρ = +0.71 ["
    )
    assert line.endswith("8 runs are few.") and "such a pick is within a point of the best in" in line
    assert literal(line) in (OUT / "report.md").read_text(encoding="utf-8")
    assert json.loads((OUT / "summary.json").read_text(encoding="utf-8"))["sentences"] == {"digits": line}


CERTAINTY = {
    "includes 0": ({"low": -0.2, "high": 0.9}, "an interval that includes 0, so it is not shown that the loss orders"),
    "wrong way": (
        {"rho": -0.5, "low": -0.9, "high": -0.2},
        "= −0.50 [−0.90, −0.20], so a lower loss means lower accur",
    ),
    "no interval": ({"low": None, "high": None}, "ρ = +0.50, the same in every resample and so without an interval"),
    "few": ({"num_runs": 9}, "; 9 runs are few."),
    "lambda 0": ({"num_left_out": 3}, "; 3 with lambda 0 left out; "),
}


@pytest.mark.parametrize(("changes", "words"), CERTAINTY.values(), ids=CERTAINTY)
def test_doubts_are_said(changes, words):
    numbers = {"rho": 0.5, "low": 0.2, "high": 0.8, "accuracy": 0.8, "regret": 0.0, "gain": 0.1}
    sure = Entry("d", "all", "train_loss", 0.4, 24, 0, pick="d--x", within_point=0.5, beats_random=0.9, **numbers)
    said = selection_text.sentences([sure], 0.4, "linear_top1")["d"]
    assert said.endswith("beats their mean in 90 %.")
    assert not any(text in said for text in ("includes", "few", "nothing"))
    assert words in selection_text.sentences([replace(sure, **changes)], 0.4, "linear_top1")["d"]


# 4. What is missing


def test_unfinished_cells_are_named(capsys):
    listing = write_params(datasets=["digits"])
    write_grid(listing)
    (listing.cells[0].folder / "probe/metrics.json").unlink()
    put(listing.cells[1].folder / "probe/metrics.json", {"knn_top1": 0.5})
    (listing.cells[2].folder / "probe/health.json").unlink()
    put(listing.cells[3].folder / "probe/health.json", {"criteria": {"magic": 1.0}})
    diagnose.main()
    folders = [cell.folder / "probe" for cell in listing.cells]
    reasons = [
        f"no {folders[0]}/metrics.json; make it with: dvc repro",
        f"{folders[1]}/metrics.json must hold finite numbers, got linear_top1 'absent'; remove it and run: dvc repro",
        f"no {folders[2]}/health.json; make it with: dvc repro",
        f"{folders[3]}/health.json has magic, unknown to pipeline/selection/criteria.py",
    ]
    reasons = [f"{cell.key}: {reason}" for cell, reason in zip(listing.cells, reasons, strict=False)]
    assert capsys.readouterr().err == "".join(f"missing: {line}\n" for line in reasons)
    text = (OUT / "report.md").read_text(encoding="utf-8")
    assert all(f"- {line}" in text for line in reasons)
    assert (entry().num_runs, entry(name="rankme", a=None).num_runs) == (6, 4)  # without health a cell still is a run


# 5. Pipelines of the paper

AXES = {
    "num_views": {"sets": ["pretrain.views.num_global"], "values": [2, 4]},
    "k": {"sets": ["probe.knn.k"], "values": [5, 20]},
}


def write_paper(folder="paper/table0", **grid):
    axes = {"lambdas": [0.05, 0.1], "axes": AXES, **grid}
    listing = write_pipeline(folder, "label,top1\n", axes, diagnose={"num_draws": 100})
    for i, cell in enumerate(listing.cells):
        write_cell(listing, cell, 1 + i / 10, 0.5 + i / 100)
    return listing


def test_runs_of_a_task_are_compared_whatever_else_differs(capsys):
    write_paper()
    diagnose.main("paper/table0/params.yaml")
    out = Path("reports/diagnosis/table0")
    assert sorted(path.name for path in (out / "picks").iterdir()) == ["digits--k20.json", "digits--k5.json"]
    assert entry("digits--k5", out=out).num_runs == 4
    text = (out / "report.md").read_text(encoding="utf-8")
    assert "need not order them: `pretrain.views.num_global`." in text
    assert "Command: `dvc repro paper/table0/dvc.yaml`. Settings: `paper/table0/params.yaml`." in text
    assert capsys.readouterr().out.count("\n") == 2


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ([("*vit", {"projector": {"proj_dim": 8}})], ["pretrain.projector.proj_dim"]),
        ([("*vit", {"objective": "visreg"})], ["pretrain.objective"]),
        (
            [("*", {"objective": "visreg"}), ("*vit", {"objectives": {"visreg": {"shape": 2.0}}})],
            ["pretrain.objectives.visreg.shape"],
        ),
        ([("*vit", {"epochs": 30, "objectives": {"visreg": {"shape": 2.0}}})], []),
    ],
)
def test_settings_that_overrides_change_within_a_task_are_named(changes, named):
    overrides = [{"when": {"dataset": "dtd", "backbone": name}, "pretrain": told} for name, told in changes]
    listing = write_pipeline("paper/table0", "label,top1\n", GRID, overrides=overrides)
    assert incomparable_settings(listing) == named


def test_transfer_and_frozen_models():
    models = {"models": {"big": {"backbone": "test_vit", "random_init": True}}}
    raw = {"targets": ["digits", "dtd"], "models": ["big"], "axes": {}}
    listing = write_pipeline("paper/table0", "label,top1\n", {"lambdas": [0.05, 0.1, 0.2], **raw}, **models)
    for i, cell in enumerate(listing.cells):
        write_cell(listing, cell, 1 + i / 10, 0.5 + i / 100)
    diagnose.main("paper/table0/params.yaml")
    out = Path("reports/diagnosis/table0")
    assert sorted(path.name for path in (out / "picks").iterdir()) == ["digits--on-dtd.json", "digits.json"]
    assert entry("digits--on-dtd", out=out).num_runs == 3
    pick = json.loads((out / "picks/digits--on-dtd.json").read_text(encoding="utf-8"))
    assert pick["cell"].endswith("on-dtd") and Path(pick["weights"]).exists() and "on-dtd" not in pick["weights"]
