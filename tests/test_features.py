"""Claims about features:

1. Extraction leaves the backbone as it was: weights, running statistics and mode; it runs in evaluation mode.
2. Features are the backbone's output for the evaluation view, in the order of the images, without gradients.
3. Memory, disk and loader workers give the same features; batches change at most the last bits.
4. Raw pixels are those of the same view, at most 32 px wide, one channel for grey sets.
"""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.backbones import create_backbone
from pipeline.datasets import EncodedImages, ImageBatch, in_memory
from pipeline.devices import choose_autocast
from pipeline.features import RAW_PIXELS_PX, embeddings, raw_pixels
from pipeline.packing import pack
from pipeline.pictures import Picture
from pipeline.views import evaluation_view

CPU = torch.device("cpu")
MEAN, STD = [0.5, 0.4, 0.3], [0.2, 0.25, 0.3]


def pictures(num: int = 9, channels: int = 3, px: int = 16) -> ImageBatch:
    pixels = torch.randint(
        0, 256, (num, channels, px, px), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    return ImageBatch(pixels, torch.ones(num), torch.arange(num) % 2)


def embed(backbone, images, precision="auto", **changes):
    settings = {"size_px": 32, "mean": MEAN, "std": STD, "batch_size": 4, "num_workers": 0, "device": CPU}
    return embeddings(backbone, images, autocast=choose_autocast(precision, CPU), **{**settings, **changes})


@pytest.fixture(scope="module")
def encoded(tmp_path_factory) -> EncodedImages:
    folder = tmp_path_factory.mktemp("data") / "set"
    noise = np.random.default_rng(0).integers(0, 256, (7, 20, 14), dtype=np.uint8)
    splits = {name: [Picture(image, i % 2, str(i)) for i, image in enumerate(noise)] for name in ("train", "test")}
    pack(folder, "set", {"source": "folder"}, ["a", "b"], splits)
    return EncodedImages(folder, "test", load_px=64)


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
        wanted = backbone.eval()(evaluation_view(images.pixels, images.aspect, 32, mean=MEAN, std=STD))
    assert found.dtype == torch.float32 and not found.requires_grad
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


def test_mean_and_std_matter():
    assert not torch.allclose(embed(nn.Flatten(), pictures()), embed(nn.Flatten(), pictures(), mean=[0.0] * 3))


def test_low_precision_features_come_as_float32():
    backbone = create_backbone("test_vit", {"img_size": 32})
    low, full = (embed(backbone, pictures(), precision=precision) for precision in ("bfloat16", "float32"))
    assert low.dtype == torch.float32 and not torch.equal(low, full)
    torch.testing.assert_close(low, full, rtol=0.1, atol=0.1)


# 3. How images reach the backbone


@pytest.mark.parametrize("batch_size", [1, 4, 9, 100])
def test_batches_change_the_last_bits_at_most(batch_size):
    backbone, images = create_backbone("test_resnet", {}), pictures()
    found = embed(backbone, images, batch_size=batch_size)
    torch.testing.assert_close(found, embed(backbone, images), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_memory_and_disk_give_the_same(encoded, num_workers):
    backbone = create_backbone("test_resnet", {})
    settings = {"batch_size": 3, "num_workers": num_workers}
    assert torch.equal(embed(backbone, encoded, **settings), embed(backbone, in_memory(encoded), batch_size=3))
    pixels = raw_pixels(in_memory(encoded), size_px=8, batch_size=3, num_workers=0)
    assert torch.equal(raw_pixels(encoded, size_px=8, **settings), pixels)


# 4. Raw pixels


@pytest.mark.parametrize(("size_px", "side"), [(8, 8), (RAW_PIXELS_PX, 32), (224, 32)])
@pytest.mark.parametrize("channels", [1, 3])
def test_raw_pixels(size_px, side, channels):
    images = pictures(channels=channels, px=40)
    found = raw_pixels(images, size_px=size_px, batch_size=4, num_workers=0)
    assert found.shape == (9, channels * side * side) and found.dtype == torch.float32
    assert found.min() >= 0 and found.max() <= 1
    view = evaluation_view(images.pixels, images.aspect, side, mean=(0, 0, 0), std=(1, 1, 1))[:, :channels]
    assert torch.equal(found, view.flatten(1))
