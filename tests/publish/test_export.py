"""Claims about weights that travel:

1. Plain timm gives the probe's features of an exported folder, to the last bit, with the size, mean and std of the
   probe; so does a frozen model row that reads the folder.
2. The card shows the numbers of comparison.csv, and none of a run that collapsed.
3. A cell is found by its key or its folder; one that is unknown, unfinished, of other settings or not trained here is
   refused with what to do, and so is a folder that holds something.
4. What is pushed to a hub comes back from it, bit for bit, through timm and as a frozen model row; a push that is
   refused leaves the folder and says how to go on, without the token.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from finished_cells import MEAN, ROOT, STD, finish_cell
from hub_server import TOKEN, serving_hub
from safetensors.torch import load_file

from pipeline.core.distributed.devices import choose_autocast
from pipeline.data.packed import ImageBatch
from pipeline.data.views import evaluation_view
from pipeline.models.backbones import create_backbone
from pipeline.models.features import Reader, embeddings
from pipeline.reports import tables
from pipeline.runtime.errors import UserError
from pipeline.runtime.files import read_json, write_json
from pipeline.settings.cells import Cell
from stages import export
from stages import model as model_stage

pytestmark = pytest.mark.seconds

CELL = Cell("default", "digits", "test_vit", 0.05, 0)
PIXELS = torch.randint(0, 256, (5, 1, 20, 24), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def probed(network) -> torch.Tensor:
    """Return the features as the probe reads them."""
    cpu = torch.device("cpu")
    reader = Reader(32, MEAN, STD, 8, 0, cpu, choose_autocast("float32", cpu))
    return embeddings(network, ImageBatch(PIXELS, torch.zeros(5, dtype=torch.int64)), reader)


# 1. Features


@pytest.mark.parametrize("backbone", ["test_resnet", "test_convnext", "test_vit"])
def test_plain_timm_gives_the_features_of_the_probe(workplace, monkeypatch, backbone):
    key, network = finish_cell(workplace, backbone)
    export.main(key, "--to", "out/mine")
    assert sorted(os.listdir("out")) == ["mine"]
    assert sorted(os.listdir("out/mine")) == ["README.md", "config.json", "model.safetensors"]
    loaded = timm.create_model("local-dir:out/mine", pretrained=True).eval()
    told = timm.data.resolve_data_config(model=loaded)
    assert (list(told["input_size"]), list(told["mean"]), list(told["std"])) == ([3, 32, 32], MEAN, STD)
    views = evaluation_view(PIXELS, told["input_size"][-1], mean=told["mean"], std=told["std"])
    with torch.inference_mode():
        assert torch.equal(loaded(views), probed(network))
    monkeypatch.setattr(model_stage.socket, "setdefaulttimeout", lambda seconds: None)
    monkeypatch.setenv("TORCH_FORCE_WEIGHTS_ONLY_LOAD", "0")
    Path("params.yaml").write_text("models:\n  mine:\n    backbone: local-dir:out/mine\n")
    model_stage.main("mine")
    row = read_json(Path("models/mine/model.json"))
    assert (row["backbone"], row["size_px"], row["mean"], row["std"]) == (backbone, 32, MEAN, STD)
    again = create_backbone(row["backbone"], row["kwargs"])
    again.load_state_dict(load_file("models/mine/backbone.safetensors"), strict=True)
    assert torch.equal(probed(again), probed(network))


# 2. Numbers


def table_of(card: str) -> list[list[str]]:
    rows = [line.strip("| ").split("|") for line in card.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row] for row in rows if not row[0].startswith(":")]


def test_the_card_has_the_numbers_of_the_table(workplace):
    key, _ = finish_cell(workplace, "test_vit")
    export.main(f"runs/default/{key}", "--to", "mine", "--license", "cc-by-4.0")
    card = Path("mine/README.md").read_text()
    row = tables.collect([CELL], workplace)[0].iloc[0]
    wanted = [["probe", "learned", "random init"]]
    for label, name in [("linear", "linear_top1"), ("k-NN", "knn_top1")]:
        wanted.append([label, f"{100 * row[name]:.1f}", f"{100 * row[f'random_init_{name}']:.1f}"])
    for shots in (1, 10):
        name = f"linear_top1_{shots}shot"
        wanted.append([f"{shots}-shot", f"{100 * row[name]:.1f} ± {100 * row[f'{name}_std']:.1f}", "–"])
    assert table_of(card) == wanted
    assert "train_loss 0.5, pred_loss 0.25, sigreg_loss 3." in card
    assert card.startswith("---\nlicense: cc-by-4.0\n") and "1,438 training and 359 test images" in card
    assert f"dvc repro\npython -m stages.export {key} --to DIR" in card and "@article" in card and "epochs: 2" in card


def test_a_collapsed_run_has_no_learned_numbers(workplace):
    key, _ = finish_cell(workplace, "test_vit", summary={"alarms": {"collapse": 2}, "collapsed": True})
    export.main(key, "--to", "mine")
    card = Path("mine/README.md").read_text()
    assert "Alarms of the training: collapse@2" in card
    assert table_of(card)[1:] == [["linear", "–", "50.0"], ["k-NN", "–", "41.0"]]


# 3. What is refused


def unfinished(key: str) -> None:
    (Path("runs/default") / key / "probe/metrics.json").unlink()


def rewritten(name: str, **values: object):
    """Return what changes values of a file of the cell's settings."""

    def change(key: str) -> None:
        path = Path("runs/default/configs", key, name)
        write_json(path, read_json(path) | values)

    return change


def occupied(key: str) -> None:
    Path("mine").mkdir()
    Path("mine/notes.txt").write_text("mine")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (unfinished, r"is not finished: no .*probe/metrics.json; make it with: dvc repro$"),
        (
            rewritten("pretrain.json", seed=7),
            r"is not finished: .*was trained with other settings than .*params.yaml has now; run: dvc repro$",
        ),
        (rewritten("probe.json", model="models/dino/model.json"), "is a frozen public model .*published by others"),
        (rewritten("probe.json", backbone_kwargs={"small_stem": True}), "small_stem, a stem that timm cannot build"),
        (occupied, "mine is not empty; name another folder, or remove it: rm -r .*/mine$"),
    ],
)
def test_what_cannot_be_exported_is_refused(workplace, change, message):
    key, _ = finish_cell(workplace, "test_resnet")
    change(key)
    with pytest.raises(UserError, match=message):
        export.main(key, "--to", "mine")
    assert os.listdir("mine") == ["notes.txt"] if change is occupied else not Path("mine").exists()


def test_unknown_cells_and_repositories_are_named(workplace):
    with pytest.raises(UserError, match="no cell has been configured here; run: dvc repro"):
        export.main("digits", "--to", "mine")
    key, _ = finish_cell(workplace, "test_resnet")
    with pytest.raises(UserError, match=f"unknown cell .*did you mean '{key}'"):
        export.main(key[:-1], "--to", "mine")
    finish_cell(workplace, "test_resnet", grid="table5")
    with pytest.raises(UserError, match=f"several grids .*name one of runs/default/{key}, runs/table5/{key}"):
        export.main(key, "--to", "mine")
    with pytest.raises(UserError, match="--push-to-hub 'me/my model': "):
        export.main(f"runs/default/{key}", "--to", "mine", "--push-to-hub", "me/my model")
    assert not Path("mine").exists()


# 4. The hub

LOAD = """
import sys, timm, torch
model = timm.create_model("hf-hub:me/mine", pretrained=True).eval()
config = timm.data.resolve_data_config(model=model)
with torch.inference_mode():
    torch.save([model(torch.load(sys.argv[1])), config["mean"], config["std"]], sys.argv[2])
"""


@pytest.mark.slow
def test_what_is_pushed_comes_back(workplace):
    key, network = finish_cell(workplace, "test_vit")
    views = evaluation_view(PIXELS, 32, mean=MEAN, std=STD)
    torch.save(views, "views.pt")
    with serving_hub() as hub:
        environment = os.environ | {
            "HF_ENDPOINT": hub.url,
            "HF_HOME": str(workplace / "hub"),
            "HF_HUB_DISABLE_XET": "1",
        }
        environment |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}

        def call(*command: str, token: str = TOKEN) -> subprocess.CompletedProcess:
            told = environment | {"HF_TOKEN": token}
            return subprocess.run([sys.executable, *command], env=told, capture_output=True, text=True)

        refused = call("-m", "stages.export", key, "--to", "first", "--push-to-hub", "me/mine", token="hf_wrong")
        assert (
            refused.returncode == 1 and "run: hf upload me/mine" in refused.stderr and "Traceback" not in refused.stderr
        )
        assert "hf_wrong" not in refused.stderr and sorted(os.listdir("first"))[0] == "README.md"
        done = call("-m", "stages.export", key, "--to", "mine", "--push-to-hub", "me/mine", "--private")
        assert done.returncode == 0, done.stderr
        assert 'timm.create_model("hf-hub:me/mine", pretrained=True)' in done.stdout and hub.private == {
            "me/mine": True
        }
        assert hub.repositories["me/mine"]["config.json"] == Path("mine/config.json").read_bytes()
        assert b'"hf-hub:me/mine"' in hub.repositories["me/mine"]["README.md"]
        loaded = call("-c", LOAD, "views.pt", "features.pt")
        assert loaded.returncode == 0, loaded.stderr
        Path("params.yaml").write_text("models:\n  mine:\n    backbone: hf-hub:me/mine\n")
        row = call("-m", "stages.model", "mine")
        assert row.returncode == 0, row.stderr
    features, mean, std = torch.load("features.pt")
    assert torch.equal(features, probed(network)) and (list(mean), list(std)) == (MEAN, STD)
    told = json.loads(Path("models/mine/model.json").read_text())
    assert told["origin"] == f"hf-hub:me/mine@{'c' * 40}"
    assert Path("models/mine/backbone.safetensors").stat().st_size > 0
