"""Claims about the stage pictures:

1. It writes the pictures of every picked run, of transformers and of convolutional networks.
2. Equal input gives equal bytes; what an earlier run left is removed.
3. A pick that is absent, out of date or of an unknown data set is named, with the command that mends it.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from packed_pictures import pack_noise
from PIL import Image

from pipeline.models.backbones import create_backbone
from pipeline.models.weights import save_weights
from pipeline.pictures import embedding_map
from pipeline.runtime.absent import reason
from pipeline.runtime.errors import UserError
from pipeline.runtime.files import write_json
from pipeline.schema.resolved_analyses import AnalysisExecution, PicturesRun, configs_folder
from pipeline.settings.params import load_params
from stages import pictures

pytestmark = pytest.mark.seconds

VIT = {"img_size": 32, "patch_size": 8, "dynamic_img_size": True}
BACKBONES = {"test_vit": VIT, "test_convnext": {}}
PARAMS = {
    "grid": {"datasets": ["digits"], "backbones": list(BACKBONES), "lambdas": [0.05], "seeds": [0]},
    "datasets": {"digits": {"source": "sklearn"}},
    "pretrain": {"epochs": 20, "batch_size": 8, "device": "cpu", "precision": "float32", "loader": {"num_workers": 0}},
    "pictures": {"num_images": 3, "num_neighbours": 2, "num_mapped": 50},
}
SHOWN = {"load_px": 256, "batch_size": 256, "site": "pooled", "device": "cpu", "precision": "float32"}
PICKS, OUT = Path("reports/diagnosis/default/picks/digits.json"), Path("reports/pictures/digits")


def weights_of(name: str, seed: int = 7, backbone=None) -> dict:
    """Write weights, of `seed` unless a backbone is given, and return their entry in the picks."""
    cell = f"digits--{name}--lambda0.05--seed0"
    path = Path(f"runs/default/{cell}/pretrain/backbone.safetensors")
    torch.manual_seed(seed)
    told = {"backbone": name, "kwargs": BACKBONES[name], "img_size_px": 32, "mean": [0.5] * 3, "std": [0.25] * 3}
    save_weights(path, backbone or create_backbone(name, BACKBONES[name]), told)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return {"cell": cell, "lambda": 0.05, "seed": 0, "weights": str(path), "sha256": digest, "shown": SHOWN}


def write_picks(entries: dict) -> None:
    PICKS.parent.mkdir(parents=True, exist_ok=True)
    PICKS.write_text(json.dumps({"dataset": "digits", "by_backbone": entries}), encoding="utf-8")


class Store:
    """Stands for the tracking store, which takes seconds to create."""

    def __init__(self) -> None:
        self.attached, self.has_run = [], True

    def attach(self, grid: str, cell: str, files: list[Path], folder: str) -> bool:
        assert all(file.is_file() for file in files)
        self.attached.append((grid, cell, sorted(file.name for file in files), folder))
        return self.has_run


@pytest.fixture(autouse=True)
def store(monkeypatch):
    found = Store()
    monkeypatch.setattr("pipeline.tracking.live_run.open_store", lambda: found)
    monkeypatch.setattr(embedding_map, "NUM_STEPS", 250)
    return found


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text(yaml.safe_dump(PARAMS), encoding="utf-8")
    params, folder = load_params(), configs_folder("params.yaml")
    write_json(folder / "pictures.json", PicturesRun.of(params, "params.yaml").result_key())
    write_json(folder / "execution.json", AnalysisExecution.of(params).model_dump())
    pack_noise(tmp_path / "data/digits", 60, 12, 10, "abcd")
    write_picks({name: weights_of(name) for name in BACKBONES})
    return tmp_path


def written() -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in OUT.iterdir()}


# 1. What is written


def test_every_picked_run_gets_its_pictures(place, store, capsys):
    pictures.main("digits")
    files = written()
    kinds = ("features", "map", "neighbours")
    assert sorted(files) == sorted(["facts.json", *(f"{name}-{kind}.png" for name in BACKBONES for kind in kinds)])
    for name, content in files.items():
        if name.endswith(".png"):
            colours = np.asarray(Image.open(io.BytesIO(content)).convert("RGB")).reshape(-1, 3)
            assert len(np.unique(colours, axis=0)) > 20
    facts = json.loads(files["facts.json"])["backbones"]
    assert [facts[name]["layer"] for name in BACKBONES] == ["last layer", "stages.1"]
    assert [facts[name]["class_token"] for name in BACKBONES] == [True, False]
    assert facts["test_vit"]["grid"] == facts["test_convnext"]["grid"] == [4, 4]
    assert facts["test_vit"]["fine_grid"] == [16, 16]
    spaces = facts["test_vit"]["spaces"]
    assert list(spaces) == ["learned", "random init", "raw pixels"]
    # Both splits hold the same pictures: the nearest one is the picture itself.
    assert all(0.5 <= space["share_right"] < 0.9 for space in spaces.values())
    assert spaces["raw pixels"] == facts["test_convnext"]["spaces"]["raw pixels"]
    assert spaces["learned"] != spaces["random init"]
    said = capsys.readouterr()
    assert (
        "digits, test_vit: nearest training images of the right class: learned " in said.out
        and "warning" not in said.err
    )
    assert store.attached == [
        ("default", facts[name]["cell"], sorted(f"{name}-{kind}.png" for kind in kinds), "pictures")
        for name in BACKBONES
    ]


def test_a_backbone_without_a_map_is_told_and_has_the_other_pictures(place, monkeypatch):
    monkeypatch.setitem(BACKBONES, "test_vit", {**VIT, "patch_size": 32})
    write_picks({"test_vit": weights_of("test_vit")})
    pictures.main("digits")
    assert sorted(written()) == ["facts.json", "test_vit-map.png", "test_vit-neighbours.png"]
    told = json.loads(written()["facts.json"])["backbones"]["test_vit"]["no_features"]
    assert "every map of VisionTransformer at 32 px has one position" in told


# 2. Determinism


def test_equal_input_gives_equal_bytes_and_old_files_go(place):
    write_picks({"test_vit": weights_of("test_vit")})
    pictures.main("digits")
    first = written()
    (OUT / "gone-map.png").write_bytes(b"old")
    torch.manual_seed(99)
    pictures.main("digits")
    assert written() == first
    write_picks({"test_vit": weights_of("test_vit", seed=8)})
    pictures.main("digits")
    assert written()["test_vit-map.png"] != first["test_vit-map.png"]


# 3. Picks


def test_an_absent_pick_names_the_command(place):
    PICKS.unlink()
    pictures.main("digits")
    assert re.search(r"there is no .*picks/digits.json, .* python -m stages.diagnose params.yaml", reason(OUT))
    with pytest.raises(UserError, match="unknown data set 'digit'; did you mean 'digits'"):
        pictures.main("digit")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sha256": "0" * 64}, "backbone.safetensors has sha256 .* and not the picked 0000"),
        ({"weights": "gone.safetensors"}, "there are no picked weights gone.safetensors"),
    ],
)
def test_a_pick_that_is_out_of_date_names_the_command(place, change, message):
    write_picks({"test_vit": {**weights_of("test_vit"), **change}})
    pictures.main("digits")
    assert re.search(f"{message}.*picks/digits.json is out of date; .*stages.diagnose params.yaml", reason(OUT))
