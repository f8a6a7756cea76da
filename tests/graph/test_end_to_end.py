"""The real `dvc repro` on a miniature grid in a temporary clone.

Claims: one command fills tables and MLflow, with weights that load into plain timm; the README's example of added data
sets works and runs their cells alone; bad settings stop before any work. Runs that are killed:
tests/graph/test_faults.py; a store that is lost: tests/graph/test_recovery.py.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import timm
import yaml
from csv_tables import csv_rows
from mlflow import MlflowClient
from PIL import Image
from safetensors.torch import load_file
from workspace import Workspace

pytestmark = pytest.mark.slow

CELLS = ["digits--test_byobnet--lambda0.05--seed0", "digits--test_vit--lambda0.05--seed0"]
COLUMNS = ["grid", "dataset", "backbone", "lambda", "seed", "num_params", "epochs", "train_loss", "pred_loss"]
COLUMNS += ["sigreg_loss", "linear_top1", "knn_top1", "linear_top1_1shot", "random_init_linear_top1"]
COLUMNS += ["random_init_knn_top1", "mlflow_run_id"]


def readme_example() -> dict:
    """Return the YAML that the README tells a person to add."""
    text = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"<!-- executed by tests/graph/test_end_to_end.py -->\n```yaml\n(.*?)```", text, re.DOTALL)
    return yaml.safe_load(block)


def table(workspace: Workspace) -> list[dict]:
    return csv_rows(workspace.root / "reports/comparison.csv")


def without_ids(workspace: Workspace) -> list[dict]:
    return [{name: value for name, value in row.items() if name != "mlflow_run_id"} for row in table(workspace)]


def active_runs(workspace: Workspace) -> dict[str, list]:
    client = MlflowClient(f"sqlite:///{workspace.root}/mlflow.db")
    found: dict[str, list] = {}
    for run in client.search_runs([e.experiment_id for e in client.search_experiments()]):
        found.setdefault(run.data.tags["cell"], []).append(run)
    return found


def points(workspace: Workspace, run_id: str, name: str) -> list[int]:
    client = MlflowClient(f"sqlite:///{workspace.root}/mlflow.db")
    return [point.step for point in client.get_metric_history(run_id, name)]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory) -> Workspace:
    made = Workspace(tmp_path_factory.mktemp("clone"))
    stages = made.repro()
    first = next(index for index, stage in enumerate(stages) if stage.startswith("pretrain"))
    assert "configure" in stages[:first], "nothing may be trained before params.yaml is validated"
    return made


@pytest.mark.core
def test_tables_and_runs(workspace):
    rows = table(workspace)
    assert list(rows[0])[: len(COLUMNS)] == COLUMNS
    assert [f"{r['dataset']}--{r['backbone']}--lambda{r['lambda']}--seed{r['seed']}" for r in rows] == CELLS
    runs = active_runs(workspace)
    assert {cell: len(found) for cell, found in runs.items()} == dict.fromkeys(CELLS, 1)
    for row, cell in zip(rows, CELLS, strict=True):
        (run,) = runs[cell]
        assert row["mlflow_run_id"] == run.info.run_id and run.info.status == "FINISHED"
        assert {name: run.data.params[name] for name in ("lambda", "dataset", "backbone", "seed")} == {
            "lambda": "0.05",
            "dataset": "digits",
            "backbone": row["backbone"],
            "seed": "0",
        }
        assert float(row["linear_top1"]) == pytest.approx(run.data.metrics["probe/linear_top1"], rel=1e-5)
        for name in ("train/loss", "train/pred_loss", "train/sigreg_loss"):
            assert points(workspace, run.info.run_id, name) == [1, 2]
        configs, made = (workspace.root / "runs/default" / part / cell for part in ("configs", ""))
        arguments = json.loads((configs / "pretrain.json").read_text())["backbone_kwargs"]
        plain = timm.create_model(row["backbone"], num_classes=0, **arguments)
        plain.load_state_dict(load_file(made / "pretrain/backbone.safetensors"), strict=True)
    assert (workspace.root / "reports/comparison.md").exists() and (workspace.root / "reports/index.html").exists()


@pytest.mark.core
def test_added_data_sets_run_their_cells_alone(workspace):
    random = np.random.default_rng(0)
    arrays = {"images": random.integers(0, 255, (600, 20, 24), dtype=np.uint8), "labels": np.arange(600) % 3}
    np.savez(workspace.root / "my-arrays.npz", **arrays)
    for label in range(2):
        folder = workspace.root / "my pictures" / f"class {label}"
        folder.mkdir(parents=True)
        for index in range(170):
            size = (int(random.integers(20, 70)), int(random.integers(20, 70)))
            pixels = random.integers(label * 100, label * 100 + 155, (size[1], size[0], 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"bild ä {index}.png")
    before = without_ids(workspace)
    entries = readme_example()["datasets"]
    assert set(entries) == {"my-arrays", "my-pictures"}
    grid = {"datasets": ["digits", *entries], "backbones": ["test_byobnet"]}
    workspace.change_params({"datasets": entries, "grid": grid, "density": {"sets": ["digits"]}})
    ran = workspace.repro()
    sets = ["digits", *entries]
    assert sorted(ran) == sorted(
        ["configure", "compare", "diagnose", "foreign", "density", "page"]
        + [f"download@{name}" for name in entries]
        + [f"{stage}@{name}-test_byobnet-0.05-0" for stage in ("pretrain", "probe") for name in entries]
        # Of digits too, whose run is picked among one backbone's now.
        + [f"score@{trained}-{scored}" for trained in sets for scored in sets]
        + [f"{stage}@{name}" for stage in ("score_foreign", "pictures") for name in sets]
    )
    assert [row["dataset"] for row in table(workspace)] == ["digits", "my-arrays", "my-pictures"]
    assert without_ids(workspace)[0] == before[0]
    workspace.change_params({"grid": {"datasets": ["digits"], "backbones": ["test_byobnet", "test_vit"]}})
    # The pictures come from the run cache.
    again = ["compare", "configure", "density", "diagnose", "page", "score@digits-digits"]
    assert sorted(workspace.repro()) == [*again, "score_foreign@digits"]
    assert without_ids(workspace) == before


def test_bad_settings_stop_before_any_work(workspace):
    workspace.change_params({"pretrain": {"epochs": 0}, "grid": {"backbones": ["test_vitt"]}})
    output = workspace.run("dvc", "repro", code=None)
    assert (
        "pretrain.epochs must be greater than or equal to 1, got 0" in output
        and "Running stage 'pretrain" not in output
    )
