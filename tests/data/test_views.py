"""Multi-crop views: what is claimed of them.

- Crop and resize equal torchvision's antialiased `resized_crop`, on small and on large images, flipped or not.
- Each colour operation equals torchvision's at the same strength.
- Crop boxes have the distribution of torchvision's RandomResizedCrop, on square, wide and high pictures.
- Flip, jitter, grey, blur and solarize happen as often as set.
- Parameters are drawn per image and per view; the same generator state gives the same bits; autocast changes nothing.
- Grey input gives three equal channels; without flipping, digits never turn.
- Crops that were cut before are flipped and coloured alike; a part of a batch gets the draws that it has in the whole.
- The evaluation view is torchvision's resize and centre crop.
- Every broken setting is named by its path in params.yaml.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import ks_2samp
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms.v2 import functional as reference

from pipeline.data.views import colour
from pipeline.data.views.crops import centre_boxes, crop_resize, random_boxes
from pipeline.data.views.multicrop import IMAGENET_MEAN, IMAGENET_STD, Multicrop, evaluation_view

RATIO = (3 / 4, 4 / 3)
PLAIN = Multicrop(
    num_global=1, num_local=0, global_px=16, global_scale=(1.0, 1.0), ratio=(1.0, 1.0), flip_prob=0, jitter_prob=0,
    grey_prob=0, blur_prob=0, solarize_prob=0, mean=(0, 0, 0), std=(1, 1, 1),
)  # fmt: skip


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pictures(num: int = 6, channels: int = 3, height: int = 16, width: int = 16, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, (num, channels, height, width), dtype=torch.uint8, generator=seeded(seed))


def smooth_picture(height: int, width: int) -> torch.Tensor:
    """One colour picture without detail, so that two ways of resizing it agree."""
    y, x = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij")
    waves = torch.stack((torch.sin(3 * x + y), torch.cos(2 * y - x), torch.sin(4 * x * y)))
    return ((waves + 1) * 127).to(torch.uint8)[None]


def sides(num: int, height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.full((num,), float(height)), torch.full((num,), float(width))


def globals_of(views: Multicrop, pixels: torch.Tensor, seed: int = 0) -> torch.Tensor:
    return views(pixels, generator=seeded(seed))[0][0]


@pytest.mark.parametrize(("height", "width"), [(28, 28), (40, 24), (90, 120)])
@pytest.mark.parametrize("size_px", [12, 32])
def test_crop_resize_equals_torchvision(height, width, size_px):
    pixels = pictures(20, 3, height, width)
    boxes = random_boxes(*sides(20, height, width), (0.05, 1.0), RATIO, generator=seeded())
    flip = torch.arange(20) % 2 == 1
    for i, image in enumerate(crop_resize(pixels, boxes, size_px, flip=flip)):
        box = [int(value) for value in boxes[i]]
        wanted = reference.resized_crop(pixels[i] / 255, *box, [size_px, size_px], antialias=True)
        torch.testing.assert_close(image, wanted.flip(2) if flip[i] else wanted, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("name", "channels"),
    [(name, 3) for name in ("brightness", "contrast", "saturation", "hue", "solarize", "blur")]
    + [(name, 1) for name in ("brightness", "contrast", "solarize", "blur")],
)
def test_colour_operation_equals_torchvision(name, channels):
    images = torch.rand(8, channels, 20, 20, generator=seeded())
    images[0] = images[0, :1]  # grey: no hue
    images[1] = images[1].round()  # pure colours: borders of the sextants
    strength = torch.rand(8, generator=seeded(1))
    ours, theirs, values = {
        "brightness": (colour.brightness_, reference.adjust_brightness, 2 * strength),
        "contrast": (colour.contrast_, reference.adjust_contrast, 2 * strength),
        "saturation": (colour.saturation_, reference.adjust_saturation, 2 * strength),
        "hue": (colour.hue_, reference.adjust_hue, strength - 0.5),
        "solarize": (colour.solarize_, reference.solarize, strength),
        "blur": (colour.gaussian_blur, lambda image, s: reference.gaussian_blur(image, [7, 7], [s, s]), 2 * strength),
    }[name]
    wanted = torch.stack([theirs(image, float(value)) for image, value in zip(images, values, strict=True)])
    torch.testing.assert_close(ours(images.clone(), values), wanted, atol=1e-5, rtol=0)


def test_grey_and_normalise_equal_torchvision():
    pixels = pictures()
    views = replace(PLAIN, grey_prob=1.0, mean=IMAGENET_MEAN, std=IMAGENET_STD)
    wanted = reference.rgb_to_grayscale(pixels / 255, num_output_channels=3)
    wanted = reference.normalize(wanted, list(IMAGENET_MEAN), list(IMAGENET_STD))
    torch.testing.assert_close(globals_of(views, pixels), wanted, atol=1e-5, rtol=0)


@pytest.mark.parametrize("scale", [(0.3, 1.0), (0.05, 0.3)])
@pytest.mark.parametrize(("height", "width"), [(300, 300), (375, 500), (600, 300)])
def test_boxes_are_distributed_as_torchvisions(scale, height, width):
    torch.manual_seed(0)
    picture = torch.empty(1, height, width)
    wanted = np.array([RandomResizedCrop.get_params(picture, scale, RATIO) for _ in range(1500)], dtype=float)
    drawn = random_boxes(*sides(8000, height, width), scale, RATIO, generator=seeded())
    found = drawn[::2].double().numpy()
    for name, of in {
        "area": lambda box: box[:, 2] * box[:, 3],
        "log ratio": lambda box: np.log(box[:, 3] / box[:, 2]),
        "top": lambda box: box[:, 0] / (height - box[:, 2] + 1),
        "left": lambda box: box[:, 1] / (width - box[:, 3] + 1),
    }.items():
        assert ks_2samp(of(found), of(wanted)).pvalue > 1e-3, name


def test_boxes_stay_inside_and_fall_back_to_the_centre():
    boxes = random_boxes(*sides(500, 7, 9), (0.9, 1.0), RATIO, generator=seeded())
    assert (boxes[:, :2] >= 0).all() and (boxes[:, 2:] >= 1).all()
    assert (boxes[:, 0] + boxes[:, 2] <= 7).all() and (boxes[:, 1] + boxes[:, 3] <= 9).all()
    impossible = random_boxes(*sides(3, 300, 30), (1.0, 1.0), RATIO, generator=seeded())
    assert impossible.tolist() == [[130.0, 0.0, 40.0, 30.0]] * 3  # as RandomResizedCrop.get_params
    assert centre_boxes(torch.tensor([10.0, 10.0]), torch.tensor([10.0, 20.0]), (1.0, 1.0)).tolist() == [
        [0, 0, 10, 10],
        [0, 5, 10, 10],
    ]


@pytest.mark.parametrize("name", ["flip", "jitter", "grey", "blur", "solarize"])
def test_operation_happens_as_often_as_set(name):
    pixels = pictures(1, 3, 16, 16).expand(3000, -1, -1, -1)
    views = replace(PLAIN, **{f"{name}_prob": 0.3})
    changed = (globals_of(views, pixels) - pixels[:1] / 255).abs().amax((1, 2, 3)) > 1e-4
    assert abs(changed.float().mean().item() - 0.3) < 4 * (0.3 * 0.7 / 3000) ** 0.5


def test_every_image_and_view_has_its_own_parameters():
    twins = pictures(1, 3, 32, 32).expand(2, -1, -1, -1)
    large, small = Multicrop(global_px=24, local_px=12)(twins, generator=seeded())
    assert large.shape == (2, 2, 3, 24, 24) and small.shape == (6, 2, 3, 12, 12)
    for views in (large.flatten(0, 1), small.flatten(0, 1)):
        assert torch.pdist(views.flatten(1)).min() > 0


def test_same_generator_state_gives_the_same_bits():
    pixels, views = pictures(9, 3, 70, 70), Multicrop(global_px=32, local_px=16)
    first, other = views(pixels, generator=seeded(3)), views(pixels, generator=seeded(4))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        again = views(pixels, generator=seeded(3))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0])


def test_grey_input_gives_three_equal_channels_and_no_local_views_none():
    views = Multicrop(num_local=0, global_px=16, mean=(0, 0, 0), std=(1, 1, 1))
    large, small = views(pictures(5, 1), generator=seeded())
    assert small is None and large.shape == (2, 5, 3, 16, 16)
    assert torch.equal(large[:, :, 0], large[:, :, 1]) and torch.equal(large[:, :, 0], large[:, :, 2])
    assert large.min() >= 0 and large.max() <= 1


def test_crops_are_finished_as_their_flips_and_colours_say():
    crops = pictures(2 * 7).view(2, 7, 3, 16, 16)
    plain = replace(PLAIN, num_global=2, flip_prob=1)
    found, none = plain.finished(crops, None, generator=seeded())
    assert none is None
    torch.testing.assert_close(found, crops.flip(4) / 255)
    grey = replace(plain, grey_prob=1.0, flip_prob=0).finished(crops, None, generator=seeded())[0]
    torch.testing.assert_close(grey, reference.rgb_to_grayscale(crops / 255, 3), atol=1e-5, rtol=0)


def test_a_part_of_a_batch_gets_its_share_of_the_draws():
    views, crops = Multicrop(global_px=16, local_px=16), pictures(2 * 7).view(2, 7, 3, 16, 16)
    sizes = torch.tensor([[30.0 + i, 50.0] for i in range(7)])
    whole = views.finished(crops, crops, generator=seeded()), views.boxes(sizes, generator=seeded())
    for first, last in ((0, 3), (3, 7)):
        part = {"first": first, "of": 7}
        some = crops[:, first:last]
        for found, wanted in zip(views.finished(some, some, generator=seeded(), **part), whole[0], strict=True):
            torch.testing.assert_close(found, wanted[:, first:last], atol=1e-5, rtol=0)
        for found, wanted in zip(views.boxes(sizes[first:last], generator=seeded(), **part), whole[1], strict=True):
            assert torch.equal(found, wanted[:, first:last])


@pytest.mark.parametrize(("height", "width"), [(64, 64), (60, 90), (120, 80)])
def test_evaluation_view_equals_resize_and_centre_crop(height, width):
    image = smooth_picture(height, width)
    view = evaluation_view(image, 28, mean=(0, 0, 0), std=(1, 1, 1))
    resized = reference.resize(image / 255, [28], antialias=True)
    torch.testing.assert_close(view, reference.center_crop(resized, [28, 28]), atol=0.03, rtol=0)


@pytest.mark.parametrize(
    ("name", "value", "rule"),
    [
        ("global_scale", [0.5, 1.2], r"\[low, high\] with 0 < low <= high <= 1"),
        ("flip_prob", 1.5, r"in \[0, 1\]"),
        ("hue", 0.6, r"in \[0, 0.5\]"),
        ("std", [0.5, 0.5, 0.0], "three numbers > 0"),
    ],
)
def test_broken_setting_is_named(name, value, rule):
    with pytest.raises(ValueError, match=rf"pretrain\.views\.{name} must be {rule}.*, got"):
        Multicrop(**{name: value})


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_gpu_never_waits_for_the_host():
    generator = torch.Generator("cuda").manual_seed(0)
    pixels, views = pictures(8, 3, 70, 70).cuda(), Multicrop(global_px=32, local_px=16)
    views(pixels, generator=generator)
    torch.cuda.set_sync_debug_mode("error")
    try:
        large, _ = views(pixels, generator=generator)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert large.isfinite().all()
