"""Claims about backbones and the projector:

1. Arguments that an architecture does not know are dropped when nobody asked for them and refused when somebody did.
2. The conformance check finds the size of the embedding, and says which resolution fails and which setting to change.
3. The same seed gives the same initial weights, bit for bit; drawing other numbers before changes nothing.
4. The projector is an MLP with BatchNorm of the widths that were asked for, behind a linear head if there is to be one.
5. Parameters are counted without allocating them.

Weights in plain timm: tests/publish/test_export.py; published ones: tests/zoo/test_models.py.
"""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pipeline.models.backbones import (
    BackboneError,
    backbone_arguments,
    check_backbone,
    count_params,
    create_backbone,
    initial_backbone,
)
from pipeline.models.projector import make_projector

ZOO = ["test_byobnet", "test_convnext", "test_vit", "test_efficientnet", "test_resnet", "test_mambaout"]


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


# 3. Initial weights


def test_same_seed_same_initial_weights():
    first = initial_backbone("test_vit", {"img_size": 32}, seed=3)
    torch.manual_seed(99)
    torch.rand(7)
    assert same_weights(first, initial_backbone("test_vit", {"img_size": 32}, seed=3))
    assert not same_weights(first, initial_backbone("test_vit", {"img_size": 32}, seed=4))


# 4. Projector


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


# 5. Counting


@pytest.mark.parametrize("name", ["test_vit", "test_resnet", "levit_128s"])
def test_parameters_are_counted_without_a_classifier(name):
    assert count_params(name) == sum(parameter.numel() for parameter in create_backbone(name, {}).parameters())
