"""Claims about pipeline.reports.tables.

1. The columns of comparison.csv come in the agreed order, few-shot by rising number of shots, extras at the end.
2. Floats have six significant digits, lambda twelve.
3. A cell with an absent or impossible metric is named with the reason and the command, and has no row.
4. Seeds are averaged, with the n - 1 standard deviation.
5. Gains over random initialisation equal their closed form on hand-made numbers.
6. Histories come back as rows by epoch; a damaged one is named, an unfinished cell is left to `collect`.
7. A cell that collapsed has empty learned scores and its baselines. It is in no gain, and in no mean of seeds of which
   others are sound; how many were left out is told.
8. What DVC's commands show is the row of highest linear accuracy of each data set, in seven columns.
"""

from __future__ import annotations

import csv
import io
import re

import pytest
from grid_results import make_cells, pretrain_metrics, probe_metrics, write_cell, write_grid

from pipeline.reports import tables
from pipeline.reports.run_facts import FACTS

FRONT = (
    "grid,dataset,backbone,lambda,seed,num_params,epochs,train_loss,pred_loss,sigreg_loss,linear_top1,knn_top1,"
    "linear_top1_1shot,linear_top1_10shot,random_init_linear_top1,random_init_knn_top1,mlflow_run_id,alarms"
)


def one_cell(**axes):
    defaults = {"datasets": ("digits",), "backbones": ("test_vit",), "lambdas": (0.05,)}
    return make_cells(**(defaults | axes))[0]


def collected(root, cell, pretrain=None, probe=None):
    write_cell(root, cell, pretrain or pretrain_metrics(), probe or probe_metrics())
    return tables.collect([cell], root, run_ids={cell.key: "abc"})


def test_columns_in_the_agreed_order(tmp_path):
    cells = make_cells()
    write_grid(tmp_path, cells, shots=(10, 1))  # written the other way round
    frame, missing = tables.collect(cells, tmp_path)
    assert missing == []
    columns = list(frame.columns)
    assert ",".join(columns[:18]) == FRONT
    assert columns[18] == "objective" and columns[-len(FACTS) :] == list(FACTS)
    assert [*zip(frame["dataset"], frame["backbone"], frame["lambda"], strict=True)] == [
        (cell.dataset, cell.backbone, cell.lamb) for cell in cells
    ]


def test_csv_digits(tmp_path):
    cell = one_cell(lambdas=(0.0123456789,))
    frame, _ = collected(tmp_path, cell, pretrain_metrics(train_loss=0.123456789, epochs=3), probe_metrics(knn_top1=1))
    header, line = tables.to_csv(frame).splitlines()
    row = dict(zip(header.split(","), line.split(","), strict=True))
    assert row["lambda"] == "0.0123456789"
    assert row["train_loss"] == "0.123457"
    assert (row["epochs"], row["knn_top1"], row["mlflow_run_id"]) == ("3", "1", "abc")


def test_unfinished_cells_are_named(tmp_path):
    cells = make_cells(datasets=("digits",), backbones=("a", "b", "c"), lambdas=(0.05,))
    write_cell(tmp_path, cells[0], pretrain_metrics(), probe_metrics())
    write_cell(tmp_path, cells[1], pretrain_metrics(), None)
    frame, missing = tables.collect(cells, tmp_path, command="dvc repro paper/x/dvc.yaml")
    assert list(frame["backbone"]) == ["a"]
    places = [tmp_path / cell.folder for cell in cells]
    assert missing == [
        f"{cells[1].key}: no {places[1]}/probe/metrics.json; make it with: dvc repro paper/x/dvc.yaml",
        f"{cells[2].key}: no {places[2]}/pretrain/metrics.json; make it with: dvc repro paper/x/dvc.yaml",
    ]


@pytest.mark.parametrize(
    ("pretrain", "probe", "reason"),
    [
        ({"train_loss": float("nan")}, {}, "pretrain/metrics.json: train_loss must be a finite number, got nan"),
        ({"epochs": 2.5}, {}, "epochs must be a whole number >= 0, got 2.5"),
        ({"alarms": ["collapse"]}, {}, r"alarms must be an object of epochs >= 1 by name, got \['collapse'\]"),
        ({}, {"knn_top1": "0.9"}, r"probe/metrics.json: knn_top1 must be a fraction in \[0, 1\], got '0.9'"),
    ],
)
def test_impossible_metrics_are_named(tmp_path, pretrain, probe, reason):
    frame, missing = collected(tmp_path, one_cell(), pretrain_metrics(**pretrain), probe_metrics(**probe))
    assert frame.empty
    assert len(missing) == 1 and re.search(reason, missing[0])


def summary(frame):
    return tables.summarise(frame).to_dict("records")


def gains(frame):
    """{score: (mean, how many gain, of how many)} of the only data set, and how many cells count and were left out."""
    (found,) = tables.improvements(frame).to_dict("records")
    scores = {name: found[name] for name in found if f"{name}_n" in found}
    told = {name: (pytest.approx(mean), found[f"{name}_better"], found[f"{name}_n"]) for name, mean in scores.items()}
    return told, (found["num_cells"], found["num_collapsed"])


def test_seeds_are_averaged(tmp_path):
    cells = make_cells(datasets=("digits",), backbones=("a",), lambdas=(0.05,), seeds=(0, 1))
    for cell, linear in zip(cells, (0.8, 0.9), strict=True):
        write_cell(tmp_path, cell, pretrain_metrics(train_loss=linear), probe_metrics(linear_top1=linear))
    (row,) = summary(tables.collect(cells, tmp_path, run_ids={cells[0].key: "r0"})[0])
    assert row["num_seeds"] == 2 and row["run_ids"] == ["r0"]
    assert row["linear_top1"] == pytest.approx(0.85) and row["train_loss"] == pytest.approx(0.85)
    assert row["linear_top1_std"] == pytest.approx(0.1 / 2**0.5)  # n - 1: 0.05 would be the biased one
    assert row["train_loss_std"] == pytest.approx(0.1 / 2**0.5)


def test_gains_over_random_initialisation(tmp_path):
    cells = make_cells(datasets=("digits",), backbones=("a", "b"), lambdas=(0.05,))
    for cell, linear in zip(cells, (0.80, 0.74), strict=True):
        write_cell(tmp_path, cell, pretrain_metrics(), probe_metrics(linear_top1=linear, random_init_linear_top1=0.75))
    found = gains(tables.collect(cells, tmp_path)[0])
    assert found == ({"linear_top1": (0.02, 1, 2), "knn_top1": (0.10, 2, 2)}, (2, 0))


def test_headline_is_the_best_sound_row_of_each_data_set(tmp_path):
    cells = make_cells(datasets=("digits", "dtd"), backbones=("a", "b"), lambdas=(0.05,))
    for cell, linear in zip(cells, (0.7, 0.8, 0.9, 0.9), strict=True):
        summary = pretrain_metrics(alarms={"collapse": 1} if cell.dataset == "dtd" else {})
        shots = {"linear_top1_1shot": 0.3, "linear_top1_10shot": 0.5, "linear_top1_1shot_std": 0.1}
        write_cell(tmp_path, cell, summary, probe_metrics(linear_top1=linear, knn_top1=0.6, **shots))
    found = tables.headline(tables.summarise(tables.collect(cells, tmp_path)[0]))
    scores = {"linear_top1": 0.8, "knn_top1": 0.6, "linear_top1_10shot": 0.5, "random_init_linear_top1": 0.76}
    assert found == {"digits": {"backbone": "b", "lambda": 0.05, **scores}}


def test_histories(tmp_path):
    cells = make_cells(datasets=("digits",), backbones=("a", "b", "c", "d"), lambdas=(0.05,))
    for cell in cells[:3]:
        write_cell(tmp_path, cell, pretrain_metrics(), None, epochs=3)
    (tmp_path / cells[1].folder / "pretrain" / "history.csv").write_text("epoch,loss\n1,0.5\n")
    (tmp_path / cells[2].folder / "pretrain" / "history.csv").unlink()
    curves, missing = tables.histories(cells, tmp_path)
    assert curves["backbone"].tolist() == ["a"] * 3
    assert curves["epoch"].tolist() == [1, 2, 3] and curves["sigreg_loss"].notna().all()
    assert [line.split(":")[0] for line in missing] == [cells[1].key, cells[2].key]
    assert (
        "history.csv must have the columns epoch, loss" in missing[0] and "remove it and run: dvc repro" in missing[0]
    )
    assert "history.csv; make it with: dvc repro" in missing[1]


def csv_rows(frame):
    return list(csv.DictReader(io.StringIO(tables.to_csv(frame))))


def test_a_collapsed_cell_has_no_learned_scores(tmp_path):
    probe = probe_metrics(linear_top1_1shot=0.5, linear_top1_1shot_std=0.03, random_init_linear_top1_1shot=0.4)
    frame, missing = collected(tmp_path, one_cell(), pretrain_metrics(alarms={"collapse": 3, "explosion": 5}), probe)
    (row,) = csv_rows(frame)
    assert missing == [] and row["alarms"] == "collapse@3, explosion@5"
    empty = {name for name, text in row.items() if not text and name not in FACTS}
    assert empty == {"linear_top1", "knn_top1", "linear_top1_1shot", "linear_top1_1shot_std"}
    assert (row["random_init_linear_top1_1shot"], row["train_loss"]) == ("0.4", "0.25")


def three_seeds(root, collapsed):
    """Seeds 0, 1, 2 with linear 0.8, 0.9, 0.1, of which some collapsed at epoch 3 plus the seed."""
    cells = make_cells(datasets=("digits",), backbones=("a",), lambdas=(0.05,), seeds=(0, 1, 2))
    for cell, linear in zip(cells, (0.8, 0.9, 0.1), strict=True):
        pretrain = pretrain_metrics(
            train_loss=linear, alarms={"collapse": 3 + cell.seed} if cell.seed in collapsed else {}
        )
        probe = probe_metrics(linear_top1=linear, random_init_linear_top1=0.7, linear_top1_1shot=linear / 2)
        write_cell(root, cell, pretrain, probe | {"linear_top1_1shot_std": linear / 10})
    return tables.collect(cells, root)[0]


def test_collapsed_seeds_are_in_no_mean(tmp_path):
    (row,) = summary(three_seeds(tmp_path, {2}))
    assert (row["num_seeds"], row["num_collapsed"], row["alarms"]) == (2, 1, {2: {"collapse": 5}})
    assert row["linear_top1"] == pytest.approx(0.85) == row["train_loss"]
    assert row["linear_top1_std"] == pytest.approx(0.1 / 2**0.5)


def test_gains_leave_out_what_collapsed(tmp_path):
    found, counts = gains(three_seeds(tmp_path, {2}))
    assert found["linear_top1"] == (0.15, 2, 2) and counts == (2, 1)
    assert gains(three_seeds(tmp_path, {0, 1, 2})) == ({}, (0, 3))
