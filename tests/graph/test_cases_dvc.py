"""Claims about DVC as its users know it, in a clone where the grid has run (cases B1, D1, D3 and their kind):

1. `dvc status` is clean, `dvc checkout` succeeds, git sees few files, nothing of paper/ is read; DVC shows metrics and
   plots.
2. A clone elsewhere gets every result by `dvc pull` and its runs by sync, and `dvc repro` there trains nothing.
3. `dvc exp run --queue -S`, two workers at once, and `dvc exp apply` succeed; the runs of an experiment reach MLflow
   beside those of the workspace; `dvc exp show` and `dvc params diff` show the settings that differ.
4. Pictures that are added to a user's folder, and an array file that is replaced, are packed again and their cells run.
5. In the project of the paper as well, also weights of a frozen model, and files that came after the first try.
6. An edit of a room that determines no number (tracking, settings, launch, ...) leaves every pretraining, probe
   and score as it is; one of a room that does changes exactly the stages that import it.
"""

from __future__ import annotations

import csv
import json
import shutil
import time

import numpy as np
import pytest
import timm
import torch
from mlflow import MlflowClient
from PIL import Image
from safetensors.torch import save_file
from workspace import Workspace

pytestmark = pytest.mark.slow

CELL = "mine--test_vit--lambda0.05--seed0"


def picture(folder, name, seed, brightness=0):
    folder.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(brightness, brightness + 100, (20, 24, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / f"{name}.png")


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """Return a clone whose grid is a user's folder alone, run to the end, with a remote."""
    made = Workspace(tmp_path_factory.mktemp("dvc") / "a clone", paper=True)
    for label in range(2):
        for index in range(40):
            picture(made.root / "my pictures" / f"class {label}", index, 100 * label + index, 120 * label)
    made.change_params(
        {
            "datasets": {"mine": {"source": "folder", "path": "my pictures"}},
            "grid": {"datasets": ["mine"], "backbones": ["test_vit"]},
            "pretrain": {"batch_size": 16},
            "density": {"sets": ["digits"], "num_images": 10},
        }
    )
    made.run("dvc", "remote", "add", "--default", "store", str(tmp_path_factory.mktemp("remote")))
    made.commit("a grid of one's own")
    made.repro()
    return made


def runs(workspace):
    client = MlflowClient(f"sqlite:///{workspace.root}/mlflow.db")
    return client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])


def test_after_a_run_dvc_finds_nothing_to_do(workspace):
    assert "up to date" in workspace.run("dvc", "status")
    assert workspace.repro() == []
    workspace.run("dvc", "checkout")
    changed = workspace.run("git", "status", "--short").splitlines()
    tables = {f"reports/{name}" for name in ("comparison.csv", "comparison.md", "metrics.json")}
    assert {line.split()[-1] for line in changed} <= {"dvc.lock", *tables}
    (shown,) = json.loads(workspace.run("dvc", "metrics", "show", "--json"))[""]["data"].values()
    (probed,) = workspace.root.glob("runs/default/*/probe/metrics.json")
    linear = json.loads(probed.read_text())["linear_top1"]
    assert shown["data"]["mine"]["linear_top1"] == pytest.approx(linear, rel=1e-5)
    assert "index.html" in workspace.run("dvc", "plots", "show")
    page = (workspace.root / "dvc_plots/index.html").read_text(encoding="utf-8")
    assert page.count('"title": "epoch"') == page.count('"title": "lambda"') == 1


MEASURING = ("pretrain", "probe", "score", "score_foreign", "known_density", "pictures")
CHANGED = {
    "losses": {"pretrain", "probe", "known_density"},
    "training": {"pretrain"},
    "probing": {"probe"},
    "density": {"score", "score_foreign", "known_density"},
    "data": {"pretrain", "probe", "score", "score_foreign", "pictures"},
    "pictures": {"pictures"},
    "reports": {"known_density"},  # which draws its figure itself
    "experiments": {"known_density"},
}


@pytest.mark.parametrize(
    "room", [*CHANGED, "runtime", "tracking", "settings", "catalogue", "launch", "planning", "zoo"]
)
def test_an_edit_changes_the_stages_that_it_concerns(workspace, room):
    path = next((workspace.root / "pipeline" / room).glob("[a-z]*.py"))
    text = path.read_text()
    path.write_text(f"{text}# a remark\n")
    try:
        changed = {name.partition("@")[0] for name in json.loads(workspace.run("dvc", "status", "--json"))}
    finally:
        path.write_text(text)
    assert changed & set(MEASURING) == CHANGED.get(room, set())


def test_another_clone_pulls_everything(workspace, tmp_path):
    workspace.commit("results")
    workspace.run("dvc", "push")
    workspace.run("git", "clone", "--quiet", str(workspace.root), str(tmp_path / "other"))
    other = workspace.at(tmp_path / "other")
    other.run("dvc", "pull")
    assert (other.root / "runs/default" / CELL / "pretrain/backbone.safetensors").is_file()
    assert other.repro() == ["configure"]  # which links the user's files
    assert "up to date" in other.run("dvc", "status")
    other.run("python", "-m", "stages.sync")
    assert "0 disagreements" in other.run("python", "-m", "stages.verify")


def test_experiments(workspace):
    workspace.commit("results")
    before = {run.info.run_id for run in runs(workspace)}
    for name, epochs in (("first", 3), ("second", 4)):
        workspace.run("dvc", "exp", "run", "--queue", "-S", f"pretrain.epochs={epochs}", "-n", name)
    workspace.run("dvc", "queue", "start", "--jobs", "2")
    while {"Queued", "Running"} & set(workspace.run("dvc", "queue", "status").split()):
        time.sleep(1)
    made = {run.data.tags["grid"]: run for run in runs(workspace) if run.info.run_id not in before}
    settings = {grid: run.data.params["settings.pretrain.epochs"] for grid, run in made.items()}
    assert settings == {"default@first": "3", "default@second": "4"}
    assert before <= {run.info.run_id for run in runs(workspace)}
    shown = workspace.run("dvc", "exp", "show", "--csv", "--only-changed", "--drop", ".*/.*|params.yaml")
    table = {row["Experiment"]: row for row in csv.DictReader(shown.splitlines())}
    assert [table[name]["pretrain.epochs"] for name in ("first", "second")] == ["3", "4"]
    assert not any("/" in column for column in table["first"]), "no checksums of files"
    assert "pretrain.epochs" in workspace.run("dvc", "params", "diff", "HEAD", "first")
    workspace.run("dvc", "exp", "apply", "first")
    assert workspace.params()["pretrain"]["epochs"] == 3
    assert workspace.repro() == []
    workspace.run("git", "checkout", "--quiet", "--", ".")
    workspace.run("dvc", "checkout")
    assert workspace.repro() == []


def test_changed_inputs_are_packed_again(workspace):
    picture(workspace.root / "my pictures" / "class 0", "new", 7)
    assert workspace.repro()[:2] == ["download@mine", "pretrain@mine-test_vit-0.05-0"]
    arrays = {"images": np.zeros((60, 12, 12), np.uint8), "labels": np.arange(60) % 3}
    for fill in (50, 90):
        arrays["images"][:, 2:9, 2:9] = fill + 10 * arrays["labels"][:, None, None]
        np.savez(workspace.root / "mine.npz", **arrays)
        entry = {"source": "arrays", "path": "mine.npz", "images": "images", "labels": "labels"}
        workspace.change_params({"datasets": {"arrays": entry}, "grid": {"datasets": ["arrays"]}})
        assert "download@arrays" in workspace.repro()
    assert workspace.repro() == []


def test_changed_inputs_of_the_paper_are_read_again(tmp_path):
    workspace = Workspace(tmp_path / "clone", paper=True)
    for pipeline in (workspace.root / "paper").glob("*[0-9]*"):  # 2,000 stages are not the point
        shutil.rmtree(pipeline)
    workspace.change_params(
        {
            "datasets": {
                "mine": {"source": "folder", "path": "my pictures"},
                "later": {"source": "arrays", "path": "later.npz", "images": "images", "labels": "labels"},
            },
            "models": {"tiny": {"backbone": "test_vit", "pretrained_path": "tiny.safetensors"}},
        }
    )

    def ran(target: str) -> list[str]:
        return [stage.split(":")[1] for stage in workspace.repro(target, project="paper")]

    def download(name: str) -> list[str]:
        return ran(f"data/dvc.yaml:download@{name}")

    def model() -> list[str]:
        return ran("models/dvc.yaml:model@tiny")

    for number in range(40):
        picture(workspace.root / "my pictures" / f"class {number % 2}", number, number)
    told = workspace.run("dvc", "--cd", "paper", "repro", "data/dvc.yaml:download@later", code=None)
    assert "datasets.later.path: there is nothing at" in told
    assert (download("mine"), download("mine")) == (["download@mine"], [])
    picture(workspace.root / "my pictures" / "class 0", "new", 7)
    assert download("mine") == ["download@mine"]
    for fill in (50, 90):
        images = np.full((60, 12, 12), fill, np.uint8) + np.arange(60, dtype=np.uint8)[:, None, None]
        np.savez(workspace.root / "later.npz", images=images, labels=np.arange(60) % 3)
        assert (download("later"), download("later")) == (["download@later"], [])
    for seed in (0, 1):
        torch.manual_seed(seed)
        weights = timm.create_model("test_vit", num_classes=0).state_dict()
        save_file(weights, workspace.root / "tiny.safetensors")
        assert (model()[-1:], model()) == (["model@tiny"], [])
