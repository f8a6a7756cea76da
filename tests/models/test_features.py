"""Claims about features:

1. Extraction leaves the backbone as it was: weights, running statistics and mode; it runs in evaluation mode.
2. Features are the backbone's output for the evaluation view, in the order of the images, without gradients.
3. Memory, disk and loader workers give the same features.
4. Raw pixels are those of the same view, at most 32 px wide, one channel for grey sets.
5. Probe sites are what plain timm gives: class tokens of the last two blocks, patch tokens without class and register
   tokens, the last feature map; an architecture without the site is refused with a remedy.
"""

from __future__ import annotations

import copy

import pytest
import torch
from packed_pictures import pack_noise

from pipeline.core.distributed.devices import choose_autocast
from pipeline.data.loader import in_memory
from pipeline.data.packed import ImageBatch, PackedSplit
from pipeline.data.views.multicrop import evaluation_view
from pipeline.models.backbones import create_backbone
from pipeline.models.features import RAW_PIXELS_PX, Reader, embeddings, raw_pixels
from pipeline.models.sites import check_site, site_extractor
from pipeline.runtime.errors import UserError

CPU = torch.device("cpu")
MEAN, STD = [0.5, 0.4, 0.3], [0.2, 0.25, 0.3]


def pictures(num: int = 9, channels: int = 3, px: int = 16) -> ImageBatch:
    pixels = torch.randint(
        0, 256, (num, channels, px, px), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    return ImageBatch(pixels, torch.arange(num) % 2)


def embed(backbone, images, precision="auto", **changes):
    asked = {name: changes.pop(name) for name in ("site", "members") if name in changes}
    return embeddings(backbone, images, reader(choose_autocast(precision, CPU), **changes), **asked)


def reader(autocast=None, **changes) -> Reader:
    settings = {"size_px": 32, "mean": MEAN, "std": STD, "batch_size": 4, "num_workers": 0}
    return Reader(**{**settings, **changes}, device=CPU, autocast=autocast)


@pytest.fixture(scope="module")
def encoded(tmp_path_factory) -> PackedSplit:
    folder = tmp_path_factory.mktemp("data") / "set"
    pack_noise(folder, 7, 20, 14)
    return PackedSplit(folder, "test", load_px=64)


# 1. The backbone stays as it is


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("name", "arguments"), [("test_resnet", {}), ("test_vit", {"img_size": 32})])
def test_backbone_is_left_as_it_was(name, arguments, training):
    backbone = create_backbone(name, arguments).train(training)
    before = copy.deepcopy(backbone.state_dict())
    embed(backbone, pictures())
    assert all(module.training == training for module in backbone.modules())
    assert all(torch.equal(value, before[key]) for key, value in backbone.state_dict().items())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in backbone.parameters())


# 2. What features are


def test_features_are_the_output_for_the_evaluation_view_in_order():
    backbone, images = create_backbone("test_resnet", {}).train(), pictures()
    found = embed(backbone, images)
    with torch.no_grad():
        wanted = backbone.eval()(evaluation_view(images.pixels, 32, mean=MEAN, std=STD))
    assert found.dtype == torch.float32 and not found.requires_grad
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


# 3. How images reach the backbone


@pytest.mark.parametrize("num_workers", [0, 1])
def test_memory_and_disk_give_the_same(encoded, num_workers):
    backbone = create_backbone("test_resnet", {})
    settings = {"batch_size": 3, "num_workers": num_workers}
    assert torch.equal(embed(backbone, encoded, **settings), embed(backbone, in_memory(encoded), batch_size=3))
    pixels = raw_pixels(in_memory(encoded), reader(size_px=8, batch_size=3))
    assert torch.equal(raw_pixels(encoded, reader(size_px=8, **settings)), pixels)


# 4. Raw pixels


@pytest.mark.parametrize(("size_px", "side"), [(8, 8), (RAW_PIXELS_PX, 32), (224, 32)])
@pytest.mark.parametrize("channels", [1, 3])
def test_raw_pixels(size_px, side, channels):
    images = pictures(channels=channels, px=40)
    found = raw_pixels(images, reader(size_px=size_px))
    assert found.shape == (9, channels * side * side) and found.dtype == torch.float32
    assert found.min() >= 0 and found.max() <= 1
    view = evaluation_view(images.pixels, side, mean=(0, 0, 0), std=(1, 1, 1))[:, :channels]
    assert torch.equal(found, view.flatten(1))


# 5. Probe sites


VIT = {"img_size": 32, "patch_size": 8}


def blocks_of(backbone, pixels) -> list[torch.Tensor]:
    """Return what each transformer block gives, caught on its way."""
    found = []
    hooks = [block.register_forward_hook(lambda _, __, out: found.append(out)) for block in backbone.blocks]
    backbone(pixels)
    for hook in hooks:
        hook.remove()
    return found


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "arguments"), [("test_vit", VIT), ("test_vit", {**VIT, "reg_tokens": 3, "global_pool": "avg"})]
)
def test_class_tokens_of_the_last_two_blocks(name, arguments):
    backbone, pixels = create_backbone(name, arguments).eval(), torch.randn(3, 3, 32, 32)
    found = site_extractor(backbone, "cls_last2")(pixels)
    before, last = (backbone.norm(tokens)[:, 0] for tokens in blocks_of(backbone, pixels)[-2:])
    torch.testing.assert_close(found, torch.cat((before, last), dim=1))
    assert found.shape == (3, 128) and check_site(backbone, "cls_last2", 32) == 128
    if not arguments.get("global_pool"):  # there the pooled output is the class token of the last layer
        torch.testing.assert_close(found[:, 64:], backbone(pixels))


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "arguments", "num_others"),
    [("test_vit", VIT, 1), ("test_vit", {**VIT, "reg_tokens": 3}, 4), ("test_vit2", VIT, 1)],
)
def test_mean_of_the_patch_tokens(name, arguments, num_others):
    backbone, pixels = create_backbone(name, arguments).eval(), torch.randn(3, 3, 32, 32)
    tokens = backbone.norm(blocks_of(backbone, pixels)[-1])
    assert tokens.shape == (3, num_others + 16, 64)
    found = site_extractor(backbone, "patch_mean")(pixels)
    torch.testing.assert_close(found, tokens[:, num_others:].mean(1))
    assert check_site(backbone, "patch_mean", 32) == 64


@torch.no_grad()
@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "test_mambaout", "test_convnext"])
def test_mean_of_the_last_feature_map(name):
    backbone, pixels = create_backbone(name, {}).eval(), torch.randn(2, 3, 64, 64)
    found = site_extractor(backbone, "patch_mean")(pixels)
    assert found.shape == (2, backbone.num_features) and check_site(backbone, "patch_mean", 64) == found.shape[1]
    feature_map = backbone.forward_features(pixels)  # timm's one architecture here that puts channels last is mambaout
    torch.testing.assert_close(found, feature_map.mean((1, 2) if name == "test_mambaout" else (2, 3)))
    if name in ("test_resnet", "test_efficientnet"):  # nothing stands between the mean and the output
        torch.testing.assert_close(found, backbone(pixels))


@pytest.mark.parametrize(
    ("site", "name", "message"),
    [
        ("cls_last2", "test_resnet", "'cls_last2' needs class tokens .* 'test_resnet'.*'pooled' or 'patch_mean'"),
        ("patch_mean", "pit_ti_224", "'patch_mean' needs patch tokens .* 'pit_ti_224' .* set probe.site to 'pooled',"),
        ("cls_last2", "test_vit", "'cls_last2' of backbone 'test_vit' fails at 20 px: .*; set probe.site to 'pooled'"),
    ],
)
def test_a_site_that_a_backbone_lacks(site, name, message):
    with torch.device("meta"):
        backbone = create_backbone(name, {})
    with pytest.raises(UserError, match=message):
        check_site(backbone, site, 20)
