"""Claims about frozen public models:

1. A local file becomes models/<name>/: its weights bit for bit, loadable by plain timm, and the facts a probe needs.
2. What is not said is taken from what timm states of the published weights; what is said wins. Untrained: seed 0.
3. A download that is refused ends soon, and says what to fetch, from where, and where to put it.
4. A file that is missing, holds code, or does not fit is refused with the setting to change.
5. The entries of params.yaml are weights that timm knows.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import timm
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from torchvision.models import resnet18
from torchvision.models.convnext import CNBlockConfig, ConvNeXt
from torchvision.models.vision_transformer import VisionTransformer

from pipeline.models.backbones import initial_backbone, pretrained_backbone, published
from pipeline.runtime.errors import UserError
from pipeline.schema.parameters import Model
from pipeline.zoo.published_checkpoints import read_checkpoint
from stages import model as stage

pytestmark = pytest.mark.seconds

ROOT = Path(__file__).parents[2]
LOCAL = "backbone: test_vit, pretrained_path: tiny.safetensors"


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """An empty repository; what the stage sets for its process is taken back."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_FORCE_WEIGHTS_ONLY_LOAD", "0")
    monkeypatch.setattr(stage.socket, "setdefaulttimeout", lambda seconds: None)
    return tmp_path


def catalogue(folder: Path, text: str) -> None:
    (folder / "params.yaml").write_text(f"models:\n  tiny: {text}\n")


def tiny(folder: Path, name: str = "test_vit", **arguments) -> nn.Module:
    torch.manual_seed(0)
    model = timm.create_model(name, **arguments).eval()
    save_file(model.state_dict(), folder / "tiny.safetensors")
    return model


# 1. A local file


def test_a_local_file_becomes_a_frozen_model(workplace, capsys):
    model = tiny(workplace, num_classes=0, img_size=32, patch_size=8)
    catalogue(workplace, f"{{{LOCAL}, img_size: 32, kwargs: {{patch_size: 8}}}}")
    stage.main("tiny")
    told = json.loads((workplace / "models/tiny/model.json").read_text())
    assert sorted(os.listdir("models/tiny")) == ["backbone.safetensors", "model.json"]
    assert list(told) == ["backbone", "kwargs", "num_params", "embed_dim", "size_px", "mean", "std", "origin"]
    assert (told["backbone"], told["embed_dim"], told["size_px"]) == ("test_vit", 64, 32)
    assert told["num_params"] == sum(parameter.numel() for parameter in model.parameters())
    assert told["origin"].startswith("tiny.safetensors, sha256 ")
    plain = timm.create_model(told["backbone"], num_classes=0, **told["kwargs"]).eval()
    plain.load_state_dict(load_file("models/tiny/backbone.safetensors"), strict=True)
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(plain(images), model(images))
    with safe_open("models/tiny/backbone.safetensors", "pt") as file:
        described = json.loads(file.metadata()["lejepa"])
    assert described == {key: told[key] for key in ("backbone", "kwargs", "mean", "std")} | {"img_size_px": 32}
    assert "tiny: test_vit" in capsys.readouterr().out


def load(model: nn.Module, folder: Path) -> nn.Module:
    told = json.loads((folder / "model.json").read_text())
    found = timm.create_model(told["backbone"], num_classes=0, **told["kwargs"]).eval()
    found.load_state_dict(load_file(folder / "backbone.safetensors"), strict=True)
    return found


VIT = {"img_size": 32, "patch_size": 8, "embed_dim": 64, "depth": 2, "num_heads": 2, "mlp_ratio": 2.0}
CONVNEXT = {"depths": [1, 1, 2, 1], "dims": [8, 16, 32, 64]}
BLOCKS = [CNBlockConfig(8, 16, 1), CNBlockConfig(16, 32, 1), CNBlockConfig(32, 64, 2), CNBlockConfig(64, None, 1)]


@pytest.mark.parametrize(
    ("make", "head", "backbone", "arguments"),
    [
        (lambda: VisionTransformer(32, 8, 2, 2, 64, 128, num_classes=7), "heads", "vit_tiny_patch16_224", VIT),
        (lambda: ConvNeXt(BLOCKS, num_classes=5), "classifier.2", "convnext_tiny", CONVNEXT),
        (resnet18, "fc", "resnet18", {}),
    ],
)
def test_weights_with_torchvisions_names_give_its_features(tmp_path, make, head, backbone, arguments):
    torch.manual_seed(0)
    model = make().eval()
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    found = pretrained_backbone(backbone, arguments, state=read_checkpoint(tmp_path / "weights.pth")).eval()
    model.set_submodule(head, nn.Identity())
    images = torch.randn(2, 3, 32, 32)
    assert torch.allclose(found(images), model(images), rtol=1e-4, atol=1e-6)


def test_a_part_of_a_training_checkpoint_is_read(workplace):
    model = tiny(workplace, num_classes=0, img_size=32, patch_size=8)
    teacher = {f"module.backbone.{name}": tensor for name, tensor in model.state_dict().items()}
    torch.save({"teacher": teacher | {"module.head.mlp.0.weight": torch.zeros(2)}, "epoch": 3}, "dino.pth")
    entry = (
        "backbone: test_vit, img_size: 32, kwargs: {patch_size: 8}, pretrained_path: dino.pth, checkpoint_key: teacher"
    )
    catalogue(workplace, f"{{{entry}, checkpoint_prefix: backbone.}}")
    stage.main("tiny")
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(load(model, workplace / "models/tiny")(images), model(images))
    catalogue(workplace, f"{{{entry}, checkpoint_prefix: encoder.}}")
    with pytest.raises(UserError, match="no name begins with 'encoder"):
        stage.main("tiny")


# 2. Defaults


def test_what_is_not_said_is_as_published(workplace):
    tiny(workplace)  # with its classifier, as downloads have it
    catalogue(workplace, "{backbone: test_vit.r160_in1k, pretrained_path: tiny.safetensors}")
    stage.main("tiny")
    told, facts = json.loads((workplace / "models/tiny/model.json").read_text()), published("test_vit.r160_in1k")
    assert (told["size_px"], told["mean"], told["std"]) == (facts.size_px, facts.mean, facts.std)
    assert (facts.size_px, facts.mean) == (160, [0.5, 0.5, 0.5])
    values = "img_size: 32, mean: [0.1, 0.2, 0.3], std: [1.0, 1.0, 1.0], kwargs: {global_pool: avg, fc_norm: false}"
    catalogue(workplace, f"{{backbone: test_vit.r160_in1k, pretrained_path: tiny.safetensors, {values}}}")
    stage.main("tiny")
    told = json.loads((workplace / "models/tiny/model.json").read_text())
    assert (told["size_px"], told["mean"], told["std"]) == (32, [0.1, 0.2, 0.3], [1.0, 1.0, 1.0])
    assert told["kwargs"]["global_pool"] == "avg"


def test_untrained_weights_are_those_of_seed_0(workplace):
    catalogue(workplace, "{backbone: test_vit, random_init: true, img_size: 32, kwargs: {patch_size: 8}}")
    stage.main("tiny")
    told = json.loads((workplace / "models/tiny/model.json").read_text())
    assert told["origin"] == "untrained, seed 0"
    wanted = initial_backbone("test_vit", told["kwargs"], seed=0).state_dict()
    found = load_file("models/tiny/backbone.safetensors")
    assert found.keys() == wanted.keys() and all(torch.equal(found[key], wanted[key]) for key in wanted)


# 3. Downloads


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backbone", "refusal"),
    [
        ("test_vit.r160_in1k", {"HF_HUB_OFFLINE": "1"}),
        ("vit_small_patch16_dinov3.lvd1689m", {"HF_ENDPOINT": "http://127.0.0.1:9"}),
    ],
)
def test_a_refused_download_says_what_to_do(tmp_path, backbone, refusal):
    catalogue(tmp_path, f"{{backbone: {backbone}}}")
    environment = os.environ | {"PYTHONPATH": str(ROOT), "HF_HOME": str(tmp_path / "hub")} | refusal
    started = time.monotonic()
    command = [sys.executable, "-m", "stages.model", "tiny"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 1 and time.monotonic() - started < 45
    assert done.stderr.startswith(f"ERROR: models.tiny: the weights of '{backbone}' could not be downloaded")
    assert f"'model.safetensors' from https://huggingface.co/timm/{backbone}" in done.stderr
    assert "put it at models/by-hand/tiny/model.safetensors" in done.stderr
    assert "to models.tiny.pretrained_path" in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "models").exists()


# 4. Files that are refused


class Code:
    def __reduce__(self):
        return (os.mkdir, ("executed",))


def test_code_in_a_file_is_not_run(workplace):
    torch.save({"state_dict": Code()}, workplace / "tiny.pth")
    for key in ("", ", checkpoint_key: state_dict"):
        catalogue(workplace, f"{{backbone: test_vit, pretrained_path: tiny.pth{key}}}")
        with pytest.raises(UserError, match=r"models.tiny.pretrained_path: .*weights_only|Weights only"):
            stage.main("tiny")
    assert os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] == "1"  # for versions of timm that ask for less
    assert not (workplace / "executed").exists() and not (workplace / "models").exists()


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("backbone: test_vit, pretrained_path: nowhere.pth", "pretrained_path: there is no file .*nowhere.pth"),
        ("backbone: test_resnet, pretrained_path: tiny.safetensors", "does not load as 'test_resnet'.*safetensors"),
        (f"{LOCAL}, kwargs: {{global_pool: avg}}", "Missing key.*fc_norm"),  # timm would leave that norm as initialised
        ("backbone: test_vit.r160", "unknown backbone 'test_vit.r160' .* did you mean 'test_vit.r160_in1k'"),
        (f"{LOCAL}, kwargs: {{global_pool: ''}}", "one vector an image"),
        (f"{LOCAL}, kwargs: {{depht: 1}}", r"models.tiny: .*takes no 'depht'; .*models.tiny.kwargs"),
    ],
)
def test_what_does_not_fit_is_refused(workplace, entry, message):
    tiny(workplace)
    catalogue(workplace, f"{{{entry}}}")
    with pytest.raises(UserError, match=message):
        stage.main("tiny")
    assert not (workplace / "models").exists()


def test_an_unknown_model_is_named(workplace):
    catalogue(workplace, "{backbone: test_vit}")
    with pytest.raises(UserError, match=r"unknown model 'tini'; did you mean 'tiny'.*add it under models:"):
        stage.main("tini")


# 5. The entries of params.yaml


def test_entries_are_weights_that_timm_knows():
    published_ones = {k: v for k, v in Model.catalogue(ROOT / "params.yaml").items() if not v.random_init}
    assert len(published_ones) >= 5
    for name, entry in published_ones.items():
        assert timm.models.is_model_pretrained(entry.backbone), name
        assert "." in entry.backbone, f"{name}: without a tag the default weights may change with timm"
