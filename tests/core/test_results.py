"""Claims about the files behind a run:

1. A finished cell's files become the contents of its MLflow run.
2. What is missing or broken is named with the command that makes it.
3. Histories read back exactly.
4. comparison.csv and dvc.lock are compared with the files, value by value and hash by hash.
5. What was watched and the label-free criteria are metrics of the run; numbers that are not finite are none.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import replace
from pathlib import Path

import pytest
from cell_record import OPENING, PROBE, ROWS, RUN, finished

from pipeline.core.results import read_history, write_history
from pipeline.runtime.errors import ResultError
from pipeline.runtime.files import read_json, write_json
from pipeline.schema.resolved import Execution
from pipeline.tracking.lockfile import lock_check
from pipeline.tracking.record import (
    cell_record,
    epoch_metrics,
    table_disagreements,
)


def write_cell(root: Path) -> Path:
    write_json(root / "configs/execution.json", Execution.of(RUN.pretrain, PROBE.probe).model_dump())
    for name, run in (("pretrain", RUN), ("probe", PROBE)):
        write_json(root / f"configs/{name}.json", {**run.result_key(), "out": str(root / name)})
        (root / name).mkdir()
    write_history(root / "pretrain" / "history.csv", ROWS)
    (root / "pretrain" / "metrics.json").write_text('{"num_params": 5, "train_loss": 0.5}')
    (root / "pretrain" / "provenance.json").write_text('{"commit": "abc"}')
    (root / "probe" / "metrics.json").write_text('{"linear_top1": 0.9, "knn_top1": 0.30000000000000004}')
    (root / "probe" / "health.json").write_text('{"num_images": 9, "criteria": {"rankme": 12.5, "lidar": null}}')
    return root / "configs"


def test_record_of_a_finished_cell(tmp_path):
    record = cell_record(write_cell(tmp_path))
    metrics = {("pretrain/num_params", 0): 5.0, ("pretrain/train_loss", 0): 0.5, ("unlabelled/rankme", 0): 12.5}
    metrics |= finished().metrics
    assert record.metrics == metrics and all(type(value) is float for value in record.metrics.values())
    assert record.params | finished().params == record.params
    assert (record.grid, record.cell, record.commit) == ("default", OPENING.cell, "abc")
    assert set(record.artifacts) == {"pretrain.json", "probe.json"}


FILES = ["configs/pretrain.json", "configs/probe.json", "pretrain/provenance.json", "pretrain/history.csv"]
FILES += ["pretrain/metrics.json", "probe/metrics.json", "probe/health.json"]


@pytest.mark.parametrize("name", FILES)
def test_a_missing_result_names_file_and_command(tmp_path, name):
    configs = write_cell(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(ResultError, match=rf"no .*{name}; make it with: dvc repro"):
        cell_record(configs)


@pytest.mark.parametrize("text", ["", "{", "[1]", "3", "\udcff"])
def test_broken_json_is_named(tmp_path, text):
    path = tmp_path / "metrics.json"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ResultError, match=r"metrics.json (is broken|must hold a JSON object).*run: dvc repro"):
        read_json(path)


def test_a_broken_history_is_named(tmp_path):
    (tmp_path / "history.csv").write_text("epoch,loss\n1,half\n")
    with pytest.raises(ResultError, match=r"history.csv is broken .*; remove it and run: dvc repro"):
        read_history(tmp_path / "history.csv")


def test_history_with_what_was_watched(tmp_path):
    path, row = tmp_path / "history.csv", {"epoch": 1.0, "loss": 0.1, "pred_loss": 0.2, "sigreg_loss": 0.3, "lr": 0.4}
    rows = [row | {"embedding_rank": 12.25}, row | {"embedding_rank": math.inf, "projection_norm": 1 / 3}]
    write_history(path, rows)
    assert path.read_text().splitlines()[0] == "epoch,loss,pred_loss,sigreg_loss,lr,embedding_rank,projection_norm"
    first, second = read_history(path)
    assert second == rows[1] and math.isnan(first.pop("projection_norm")) and first == rows[0]
    metrics = epoch_metrics(rows[0]) | epoch_metrics(second)
    assert metrics[("watch/embedding_rank", 1)] == 12.25 and metrics[("watch/projection_norm", 1)] == 1 / 3
    assert ("watch/projection_norm", 1) not in epoch_metrics(read_history(path)[0])
    assert {name for name, _ in metrics} == {f"train/{name}" for name in row if name != "epoch"} | {
        "watch/embedding_rank", "watch/projection_norm"
    }  # fmt: skip


# Tables and the lock

RECORD = replace(finished(), metrics={**finished().metrics, ("pretrain/train_loss", 0): 0.123456789})
ROW = {"grid": "default", "lambda": "0.1", "train_loss": "0.123457", "linear_top1": "0.9", "mlflow_run_id": "run1"}


@pytest.mark.parametrize(
    ("change", "messages"),
    [
        ({}, []),
        ({"train_loss": "0.12346"}, ["comparison.csv has train_loss 0.12346, the files say 0.123456789"]),
        ({"linear_top1": ""}, ["comparison.csv has linear_top1 , the files say 0.9"]),
        ({"linear_top1": "0.9%"}, ["comparison.csv has linear_top1 0.9%, the files say 0.9"]),
        ({"mlflow_run_id": "run2"}, ["comparison.csv names run run2, MLflow has run1"]),
        ({"mlflow_run_id": ""}, ["comparison.csv names run none, MLflow has run1"]),
        ({"linear_top1": "0.8", "mlflow_run_id": ""}, ["names run none", "linear_top1 0.8"]),
    ],
)
def test_table_is_compared_with_files_and_runs(change, messages):
    found = list(table_disagreements(RECORD, {**ROW, **change}, ["run1"]))
    assert len(found) == len(messages)
    assert all(message in problem for message, problem in zip(messages, found, strict=True))


def test_files_are_compared_with_the_lock(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    paths = [Path(name) for name in ("good", "changed", "gone", "unknown")]
    for path in paths:
        path.write_text(path.name)
    md5 = {str(path): hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest() for path in paths[:3]}
    outs = "".join(f"    - path: {name}\n      md5: {value}\n" for name, value in md5.items())
    lock = Path("dvc.lock")
    lock.write_text(f"schema: '2.0'\nstages:\n  none:\n    cmd: x\n  some:\n    cmd: y\n    outs:\n{outs}")
    Path("changed").write_text("other")
    Path("gone").unlink()
    changed, gone, unknown = lock_check(lock, "dvc repro")(paths)
    restored = "make it again with: dvc repro"
    assert changed.startswith("changed has md5 ") and changed.endswith(restored)
    assert f"but dvc.lock recorded {md5['changed']}; restore it with: dvc checkout --force changed" in changed
    assert gone.startswith(f"gone is missing, but dvc.lock recorded {md5['gone']}; ") and gone.endswith(restored)
    assert unknown == "unknown is not in dvc.lock; run: dvc repro"
    assert len(list(lock_check(Path("absent.lock"), "dvc repro")(paths))) == 4


@pytest.mark.parametrize("cached", [True, False])
def test_a_folder_is_compared_with_the_lock(tmp_path, monkeypatch, cached):
    """The digest of the folder and its listing are those of DVC 3.67."""
    monkeypatch.chdir(tmp_path)
    recorded, inside = "d94ea6786aebfcef04fcbfae174b682e.dir", Path("out/inside")
    inside.mkdir(parents=True)
    (inside / "a.txt").write_text("a")
    Path("out/b.txt").write_text("b")
    Path("dvc.lock").write_text(
        f"schema: '2.0'\nstages:\n  some:\n    cmd: y\n    outs:\n    - path: out\n      md5: {recorded}\n"
    )
    listing = Path(".dvc/cache/files/md5", recorded[:2], recorded[2:])
    if cached:
        listing.parent.mkdir(parents=True)
        listing.write_text(
            '[{"md5": "92eb5ffee6ae2fec3ad71c777531578f", "relpath": "b.txt"}, '
            '{"md5": "0cc175b9c0f1b6a831c399e269772661", "relpath": "inside/a.txt"}]'
        )

    def found() -> list[str]:
        return [problem.split(";")[0] for problem in lock_check(Path("dvc.lock"), "dvc repro")([Path("out")])]

    assert found() == []
    Path("out/b.txt").unlink()
    Path("out/c.txt").write_text("c")
    if not cached:
        assert found() == [f"out has md5 9aa812c08e0b8a4f2432928f3d91dd65.dir, but dvc.lock recorded {recorded}"]
        return
    gone, new = found()
    assert gone.startswith("out/b.txt is missing, but dvc.lock recorded 92eb5ffee6ae2fec3ad71c777531578f")
    assert new == "out/c.txt has md5 4a8a08f09d37b73795649038408b5f33, but dvc.lock recorded none"
