"""Multi-crop views: what is claimed of them.

- Crop and resize equal torchvision's antialiased `resized_crop`, on small and on large canvases, flipped or not.
- Each colour operation equals torchvision's at the same strength.
- Crop boxes have the distribution of torchvision's RandomResizedCrop, also on canvases that loading stretched.
- Flip, jitter, grey, blur and solarize happen as often as set; strengths and sigma fill their ranges.
- Parameters are drawn per image and per view; the same generator state gives the same bits; autocast changes nothing.
- Grey input gives three equal channels; without flipping, digits never turn.
- A stretched canvas gives the view of the unstretched picture.
- The evaluation view is torchvision's resize and centre crop.
- Every broken setting is named by its path in params.yaml.
"""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.stats import ks_2samp
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms.v2 import functional as reference

from pipeline.views import colour
from pipeline.views.crops import centre_boxes, crop_resize, random_boxes
from pipeline.views.multicrop import IMAGENET_MEAN, IMAGENET_STD, Multicrop, _host_generator, evaluation_view

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


def globals_of(views: Multicrop, pixels: torch.Tensor, seed: int = 0) -> torch.Tensor:
    return views(pixels, torch.ones(len(pixels)), generator=seeded(seed))[0][0]


@pytest.mark.parametrize(("height", "width"), [(28, 28), (40, 24), (90, 120)])
@pytest.mark.parametrize("size_px", [12, 32])
def test_crop_resize_equals_torchvision(height, width, size_px):
    pixels = pictures(20, 3, height, width)
    boxes = random_boxes(torch.ones(20), (height, width), (0.05, 1.0), RATIO, generator=seeded())
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
@pytest.mark.parametrize(("canvas", "stretch"), [((300, 300), 1.0), ((300, 600), 1.0), ((300, 300), 2.0)])
def test_boxes_are_distributed_as_torchvisions(scale, canvas, stretch):
    torch.manual_seed(0)
    height, width = canvas
    picture = torch.empty(1, height, round(width * stretch))
    wanted = np.array([RandomResizedCrop.get_params(picture, scale, RATIO) for _ in range(1500)], dtype=float)
    found = random_boxes(torch.full((4000,), stretch), canvas, scale, RATIO, generator=seeded()).double().numpy()
    found[:, [1, 3]] *= stretch  # columns in original px
    for name, of in {
        "area": lambda box: box[:, 2] * box[:, 3],
        "log ratio": lambda box: np.log(box[:, 3] / box[:, 2]),
        "top": lambda box: box[:, 0] / (height - box[:, 2] + 1),
        "left": lambda box: box[:, 1] / (width * stretch - box[:, 3] + 1),
    }.items():
        assert ks_2samp(of(found) + jitter(found, stretch, 0), of(wanted) + jitter(wanted, 1, 1)).pvalue > 1e-3, name


def jitter(boxes: np.ndarray, stretch: float, seed: int) -> np.ndarray:
    """No noise unless the canvas is stretched: then widths are even numbers and exact ties would decide the test."""
    return np.zeros(len(boxes)) if stretch == 1 else np.random.default_rng(seed).normal(0, 1e-3, len(boxes))


def test_boxes_stay_inside_and_fall_back_to_the_centre():
    boxes = random_boxes(torch.ones(500), (7, 9), (0.9, 1.0), RATIO, generator=seeded())
    assert (boxes[:, :2] >= 0).all() and (boxes[:, 2:] >= 1).all()
    assert (boxes[:, 0] + boxes[:, 2] <= 7).all() and (boxes[:, 1] + boxes[:, 3] <= 9).all()
    impossible = random_boxes(torch.ones(3), (300, 30), (1.0, 1.0), RATIO, generator=seeded())
    assert impossible.tolist() == [[130.0, 0.0, 40.0, 30.0]] * 3  # as RandomResizedCrop.get_params
    assert centre_boxes(torch.tensor([1.0, 2.0]), (10, 10), (1.0, 1.0)).tolist() == [[0, 0, 10, 10], [0, 2, 10, 5]]


@pytest.mark.parametrize("name", ["flip", "jitter", "grey", "blur", "solarize"])
def test_operation_happens_as_often_as_set(name):
    pixels = pictures(1, 3, 16, 16).expand(3000, -1, -1, -1)
    views = replace(PLAIN, **{f"{name}_prob": 0.3})
    changed = (globals_of(views, pixels) - pixels[:1] / 255).abs().amax((1, 2, 3)) > 1e-4
    assert abs(changed.float().mean().item() - 0.3) < 4 * (0.3 * 0.7 / 3000) ** 0.5


def test_strengths_fill_their_ranges():
    flat = torch.full((2000, 1, 16, 16), 100, dtype=torch.uint8)
    bright = globals_of(replace(PLAIN, jitter_prob=1.0, brightness=0.4, contrast=0), flat)[:, 0, 0, 0] * 255 / 100
    assert ks_2samp(bright, np.random.default_rng(0).uniform(0.6, 1.4, 4000)).pvalue > 1e-3
    sigma = PLAIN._draw(torch.ones(2000), (16, 16), (1.0, 1.0), seeded()).sigma
    assert ks_2samp(sigma, np.random.default_rng(0).uniform(*PLAIN.blur_sigma, 4000)).pvalue > 1e-3


def test_jitter_operations_come_in_every_order():
    pixels, views = pictures(1), replace(PLAIN, jitter_prob=1.0, saturation=0, hue=0, brightness=0.99, contrast=0.99)
    orders = set()
    for seed in range(40):
        found = globals_of(views, pixels, seed)
        factors = views._draw(torch.ones(1), (16, 16), (1.0, 1.0), seeded(seed)).jitter
        first = colour.contrast_(colour.brightness_(pixels / 255, factors[:, 0]), factors[:, 1])
        second = colour.brightness_(colour.contrast_(pixels / 255, factors[:, 1]), factors[:, 0])
        orders |= {name for name, one in (("bc", first), ("cb", second)) if torch.allclose(found, one, atol=1e-5)}
    assert orders == {"bc", "cb"}


def test_orders_follow_a_device_generator_that_the_host_can_read():
    def first_draw(offset: int) -> int:
        device = SimpleNamespace(device=torch.device("cuda"), get_state=lambda: torch.tensor([7, offset]))
        return torch.randint(2**31, (1,), generator=_host_generator(device)).item()

    assert first_draw(0) == first_draw(0) != first_draw(4)
    host = seeded()
    assert _host_generator(host) is host


def test_every_image_and_view_has_its_own_parameters():
    twins = pictures(1, 3, 32, 32).expand(2, -1, -1, -1)
    large, small = Multicrop(global_px=24, local_px=12)(twins, torch.ones(2), generator=seeded())
    assert large.shape == (2, 2, 3, 24, 24) and small.shape == (6, 2, 3, 12, 12)
    for views in (large.flatten(0, 1), small.flatten(0, 1)):
        assert torch.pdist(views.flatten(1)).min() > 0


def test_same_generator_state_gives_the_same_bits():
    pixels, aspect, views = pictures(9, 3, 70, 70), torch.ones(9), Multicrop(global_px=32, local_px=16)
    first, other = views(pixels, aspect, generator=seeded(3)), views(pixels, aspect, generator=seeded(4))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        again = views(pixels, aspect, generator=seeded(3))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0])


def test_grey_input_gives_three_equal_channels_and_no_local_views_none():
    views = Multicrop(num_local=0, global_px=16, mean=(0, 0, 0), std=(1, 1, 1))
    large, small = views(pictures(5, 1), torch.ones(5), generator=seeded())
    assert small is None and large.shape == (2, 5, 3, 16, 16)
    assert torch.equal(large[:, :, 0], large[:, :, 1]) and torch.equal(large[:, :, 0], large[:, :, 2])
    assert large.min() >= 0 and large.max() <= 1


@pytest.mark.parametrize(("flip_prob", "turned"), [(0.0, False), (1.0, True)])
def test_flip_is_off_or_on(flip_prob, turned):
    ramp = torch.arange(0, 256, 8, dtype=torch.uint8).expand(64, 1, 32, 32)  # brighter to the right
    views = replace(PLAIN, flip_prob=flip_prob, global_scale=(0.2, 1.0), ratio=RATIO)
    rising = globals_of(views, ramp).diff(dim=3).mean((1, 2, 3)) > 0
    assert (rising != turned).all()


def test_stretched_canvas_gives_the_view_of_the_unstretched_picture():
    wide = smooth_picture(60, 180)
    canvas = reference.resize(wide, [120, 120], antialias=True)
    box = torch.tensor([[10.0, 30.0, 40.0, 60.0]])
    stretched = box * torch.tensor([120 / 60, 120 / 180] * 2)
    one, other = crop_resize(wide, box, 32), crop_resize(canvas, stretched, 32)
    torch.testing.assert_close(one, other, atol=0.02, rtol=0)
    square, central = evaluation_view(wide, torch.ones(1), 32), evaluation_view(canvas, torch.tensor([3.0]), 32)
    torch.testing.assert_close(square, central, atol=0.08, rtol=0)  # in units of a standard deviation


@pytest.mark.parametrize(("height", "width"), [(64, 64), (60, 90), (120, 80)])
def test_evaluation_view_equals_resize_and_centre_crop(height, width):
    image = smooth_picture(height, width)
    view = evaluation_view(image, torch.ones(1), 28, crop_frac=0.875, mean=(0, 0, 0), std=(1, 1, 1))
    resized = reference.resize(image / 255, [32], antialias=True)  # 28 = 32 * 0.875: an even margin, so no half pixel
    torch.testing.assert_close(view, reference.center_crop(resized, [28, 28]), atol=0.03, rtol=0)


def test_evaluation_view_spreads_grey_and_checks_crop_frac():
    assert evaluation_view(pictures(5, 1), torch.ones(5), 8).shape == (5, 3, 8, 8)
    with pytest.raises(ValueError, match=r"crop_frac must be in \(0, 1\], got 0"):
        evaluation_view(pictures(), torch.ones(6), 8, crop_frac=0)


@pytest.mark.parametrize(
    ("name", "value", "rule"),
    [
        ("num_global", 0, ">= 1"),
        ("num_local", -1, ">= 0"),
        ("global_px", 3, ">= 4"),
        ("local_px", 0, ">= 4"),
        ("global_scale", [0.5, 1.2], r"\[low, high\] with 0 < low <= high <= 1"),
        ("local_scale", [0.3, 0.1], r"\[low, high\] with"),
        ("ratio", [0.0, 1.0], r"\[low, high\] with 0 < low <= high"),
        ("blur_sigma", [0.1], r"\[low, high\] with"),
        ("flip_prob", 1.5, r"in \[0, 1\]"),
        ("jitter_prob", -0.1, r"in \[0, 1\]"),
        ("brightness", -0.1, ">= 0"),
        ("hue", 0.6, r"in \[0, 0.5\]"),
        ("solarize_threshold", 300, r"in \[0, 256\]"),
        ("mean", [0.5], "three numbers"),
        ("std", [0.5, 0.5, 0.0], "three numbers > 0"),
    ],
)
def test_broken_setting_is_named(name, value, rule):
    with pytest.raises(ValueError, match=rf"pretrain\.views\.{name} must be {rule}.*, got"):
        Multicrop(**{name: value})


def test_lists_from_json_become_tuples():
    assert Multicrop(global_scale=[0.3, 1.0], mean=list(IMAGENET_MEAN)) == Multicrop()


@pytest.mark.parametrize(
    ("pixels", "aspect", "match"),
    [
        (torch.zeros(2, 3, 8, 8), torch.ones(2), "pixels must be"),
        (torch.zeros(2, 4, 8, 8, dtype=torch.uint8), torch.ones(2), "pixels must be"),
        (torch.zeros(2, 3, 8, 8, dtype=torch.uint8), torch.ones(3), r"aspect must have shape \(2,\)"),
    ],
)
def test_wrong_input_is_named(pixels, aspect, match):
    with pytest.raises(ValueError, match=match):
        PLAIN(pixels, aspect, generator=seeded())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_gpu_never_waits_for_the_host():
    generator = torch.Generator("cuda").manual_seed(0)
    pixels, aspect, views = pictures(8, 3, 70, 70).cuda(), torch.ones(8).cuda(), Multicrop(global_px=32, local_px=16)
    views(pixels, aspect, generator=generator)
    torch.cuda.set_sync_debug_mode("error")
    try:
        large, _ = views(pixels, aspect, generator=generator)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert large.isfinite().all()
