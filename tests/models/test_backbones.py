"""Claims about backbones and the projector:

1. Arguments that an architecture does not know are dropped when nobody asked for them and refused when somebody did.
2. The conformance check finds the size of the embedding, and says which resolution fails and which setting to change.
3. A name is known when timm has it, a tag included.
4. The same seed gives the same initial weights, bit for bit; drawing other numbers before changes nothing.
5. Saved weights load strictly into plain timm and give the features of this library bit for bit.
6. The projector is an MLP with BatchNorm of the widths that were asked for, behind a linear head if there is to be one.
7. Parameters are counted without allocating them.
8. Weights with and without a classifier, or in a checkpoint, load bit for bit.
"""

from __future__ import annotations

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from pipeline.core.distributed.devices import choose_autocast
from pipeline.data.packed import ImageBatch
from pipeline.data.views.multicrop import evaluation_view
from pipeline.models.backbones import (
    BackboneError,
    backbone_arguments,
    check_backbone,
    count_params,
    create_backbone,
    initial_backbone,
    is_known,
    pretrained_backbone,
)
from pipeline.models.features import Reader, embeddings
from pipeline.models.projector import make_projector
from pipeline.models.weights import save_weights
from pipeline.zoo.published_checkpoints import read_checkpoint

ZOO = ["test_byobnet", "test_convnext", "test_vit", "test_efficientnet", "test_resnet", "test_mambaout"]
MEAN, STD = [0.5, 0.4, 0.3], [0.2, 0.25, 0.3]


def same_weights(first: nn.Module, second: nn.Module) -> bool:
    ours, theirs = first.state_dict(), second.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


# 1. Arguments


@pytest.mark.parametrize(
    ("name", "asked", "arguments"),
    [
        ("test_resnet", {}, {}),
        ("test_convnext", {"drop_path_rate": 0.1}, {"drop_path_rate": 0.1}),
        ("test_resnet", {"small_stem": True}, {"small_stem": True}),
        ("test_byobnet", {}, {"img_size": 32}),
        ("poolformer_s12", {}, {}),  # timm lists what its constructor refuses
        ("test_vit", {}, {"img_size": 32, "dynamic_img_size": True}),
        ("test_vit", {"patch_size": 8}, {"img_size": 32, "dynamic_img_size": True, "patch_size": 8}),
        ("test_vit", {"kwargs": {"dynamic_img_size": False}}, {"img_size": 32, "dynamic_img_size": False}),
        ("test_vit", {"kwargs": {"reg_tokens": 2}}, {"img_size": 32, "dynamic_img_size": True, "reg_tokens": 2}),
    ],
)
def test_arguments_that_the_architecture_knows(name, asked, arguments):
    assert backbone_arguments(name, img_size=32, **asked) == arguments
    create_backbone(name, arguments)


@pytest.mark.parametrize(
    ("name", "asked", "message"),
    [
        ("test_resnet", {"patch_size": 4}, "'test_resnet' takes no 'patch_size'; remove it from pretrain.backbone"),
        ("test_vit", {"small_stem": True}, "'test_vit' takes no 'small_stem'"),
        ("test_resnet", {"kwargs": {"reg_tokens": 2}}, "takes no 'reg_tokens'.*in overrides"),
        (
            "test_vit",
            {"kwargs": {"global_pool": "avgg"}},
            "cannot be built with .*avgg.*: Assert.*change pretrain",
        ),
        ("test_vit", {"kwargs": {"num_classes": 3}}, "multiple values for keyword argument 'num_classes'"),
    ],
)
def test_explicit_arguments_are_refused_not_dropped(name, asked, message):
    with pytest.raises(BackboneError, match=message):
        backbone_arguments(name, img_size=32, **asked)


@pytest.mark.parametrize("name", ["resnet18", "resnet10t"])
def test_small_stem_keeps_the_size_of_the_image(name):
    backbone = create_backbone(name, {"small_stem": True})
    shapes = []
    backbone.layer1.register_forward_pre_hook(lambda module, images: shapes.append(images[0].shape[-2:]))
    backbone.eval()(torch.zeros(1, 3, 32, 32))
    assert shapes == [(32, 32)]
    assert backbone.conv1.weight.std().item() == pytest.approx((2 / (9 * backbone.conv1.out_channels)) ** 0.5, rel=0.1)


# 2. Conformance


@pytest.mark.parametrize(("name", "local_px"), [(name, 32 if name == "test_convnext" else 16) for name in ZOO])
def test_conformance_finds_the_size(name, local_px):
    arguments = backbone_arguments(name, img_size=32)
    found = check_backbone(name, arguments, global_px=32, local_px=local_px, batch_size=8)
    backbone = create_backbone(name, arguments)
    assert found.num_params == sum(parameter.numel() for parameter in backbone.parameters())
    assert backbone(torch.zeros(3, 3, 32, 32)).shape == (3, found.embed_dim)


@pytest.mark.parametrize(
    ("name", "arguments", "global_px", "local_px", "message"),
    [
        ("test_convnext", {}, 32, 16, r"at 16 px \(pretrain.views.local_px\): .*; raise pretrain.views.local_px"),
        ("test_convnext", {}, 16, None, r"at 16 px \(pretrain.views.global_px\): .*; raise pretrain.views.global_px"),
        (
            "test_vit",
            {"img_size": 32, "dynamic_img_size": False},
            32,
            16,
            r"at 16 px \(pretrain.views.local_px\): Input",
        ),
        ("test_vit", {"img_size": 32, "dynamic_img_size": True}, 32, 24, "divisible by patch size.*patch_size"),
        ("test_vit", {"img_size": 32, "global_pool": ""}, 32, None, r"one vector an image.*\(2, 5, 64\).*global_pool"),
    ],
)
def test_conformance_names_the_resolution_and_the_remedy(name, arguments, global_px, local_px, message):
    with pytest.raises(BackboneError, match=f"backbone '{name}'.*{message}"):
        check_backbone(name, arguments, global_px=global_px, local_px=local_px, batch_size=8)


# 3. Names


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("resnet18", True),
        ("resnet18.a1_in1k", True),
        ("resnet18.a1_in2k", False),
        ("ResNet18", False),
        ("hf-hub:timm/resnet18.a1_in1k", False),
    ],
)
def test_known_names(name, known):
    assert is_known(name) == known


# 4. Initial weights


def test_same_seed_same_initial_weights():
    first = initial_backbone("test_vit", {"img_size": 32}, seed=3)
    torch.manual_seed(99)
    torch.rand(7)
    assert same_weights(first, initial_backbone("test_vit", {"img_size": 32}, seed=3))
    assert not same_weights(first, initial_backbone("test_vit", {"img_size": 32}, seed=4))


# 5. Plain timm


PLAIN = [("test_vit", {"patch_size": 8}), ("test_resnet", {}), ("test_convnext", {})]


@pytest.mark.parametrize(("name", "asked"), PLAIN)
def test_saved_weights_give_the_features_in_plain_timm(tmp_path, name, asked):
    arguments = backbone_arguments(name, img_size=32, **asked)
    backbone = initial_backbone(name, arguments, seed=0)
    backbone.train()(torch.rand(8, 3, 32, 32))  # so that running statistics of BatchNorm are not the initial ones
    pixels = torch.randint(0, 256, (10, 1, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    images = ImageBatch(pixels, torch.zeros(10, dtype=torch.int64))
    cpu = torch.device("cpu")
    reader = Reader(32, MEAN, STD, batch_size=10, num_workers=0, device=cpu, autocast=choose_autocast("auto", cpu))
    found = embeddings(backbone, images, reader)
    save_weights(tmp_path / "backbone.safetensors", backbone, {"backbone": name})

    plain = timm.create_model(name, num_classes=0, **arguments).eval()
    plain.load_state_dict(load_file(tmp_path / "backbone.safetensors"), strict=True)
    with torch.inference_mode():
        wanted = plain(evaluation_view(images.pixels, 32, mean=MEAN, std=STD))
    assert torch.equal(found, wanted)
    assert found.std() > 0


# 6. Projector


@pytest.mark.parametrize("embed_dim", [None, 20])
@pytest.mark.parametrize("hidden_dims", [[], [24], [24, 40]])
def test_projector_widths(hidden_dims, embed_dim):
    projector = make_projector(12, hidden_dims=hidden_dims, proj_dim=7, embed_dim=embed_dim)
    assert projector(torch.randn(5, 12)).shape == (5, 7)
    head = [] if embed_dim is None else [embed_dim]
    linears = [layer for layer in projector if isinstance(layer, nn.Linear)]
    assert [layer.out_features for layer in linears] == [*head, *hidden_dims, 7]
    assert [layer.bias is not None for layer in linears] == [True] * len(head) + [False] * len(hidden_dims) + [True]
    norms = [layer.num_features for layer in projector if isinstance(layer, nn.BatchNorm1d)]
    assert norms == hidden_dims
    assert sum(isinstance(layer, nn.ReLU) for layer in projector) == len(hidden_dims)


# 7. Counting


@pytest.mark.parametrize("name", ["test_vit", "test_resnet", "levit_128s"])
def test_parameters_are_counted_without_a_classifier(name):
    assert count_params(name) == sum(parameter.numel() for parameter in create_backbone(name, {}).parameters())


# 8. Published weights


def saved(folder, model: nn.Module, kind: str):
    weights = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    if kind == "safetensors":
        save_file(weights, folder / "weights.safetensors")
        return folder / "weights.safetensors"
    wrapped = {"encoder": {"module.nothing": torch.zeros(1)}, "target": {f"module.{k}": v for k, v in weights.items()}}
    torch.save(wrapped if kind == "checkpoint" else weights, folder / "weights.pth")
    return folder / "weights.pth"


@pytest.mark.parametrize("kind", ["safetensors", "torch", "checkpoint"])
@pytest.mark.parametrize(("name", "num_classes"), [("test_vit", 1000), ("test_convnext", 0)])
def test_local_weights_load_bit_for_bit(tmp_path, name, num_classes, kind):
    arguments = backbone_arguments(name, img_size=160)
    model = timm.create_model(name, num_classes=num_classes, **arguments)
    path = saved(tmp_path, model, kind)
    state = read_checkpoint(path, key="target" if kind == "checkpoint" else None)
    found = pretrained_backbone(name, arguments, state=state)
    model.reset_classifier(0)
    assert same_weights(found, model)
    images = torch.randn(2, 3, 160, 160)
    assert torch.equal(found.eval()(images), model.eval()(images))


def test_another_classifier_is_dropped():
    model = timm.create_model("test_convnext", num_classes=7)
    found = pretrained_backbone("test_convnext", {}, state=model.state_dict())
    model.reset_classifier(0)
    assert same_weights(found, model)
