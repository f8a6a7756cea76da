"""Multi-crop views a second, ours and the peers': python -m benchmarks.views

Every method turns the same uint8 batch into 2 global and 6 local normalised float32 views with the same operations and
probabilities. Methods run in turn in one process, so that a busy machine slows all alike; a row's ratio is between
medians of that run. kornia runs in four ways (cropping by slices or by resampling, view by view or all views of a
size as one batch) and its fastest counts. torchvision v2 runs image by image, on tensors.

On CUDA torchvision stays on the CPU, where data loaders run it.

Writes reports/benchmarks/views.md. Exits with 1 if a ratio misses its bar.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torchvision.transforms import v2

from benchmarks.measure import in_turn, write_report
from benchmarks.peers import ROOT, peer_python
from pipeline.data.views.colour import BLUR_KERNEL_PX
from pipeline.data.views.multicrop import Multicrop

NUM_SAMPLES = 16  # images that torchvision gets: its time grows with their number alone


class Size(NamedTuple):
    """What is measured, and the least ratio of kornia's time to ours."""

    batch: int
    canvas_px: int
    channels: int
    global_px: int
    local_px: int
    bar: float


SIZES = [Size(256, 28, 3, 32, 16, 2), Size(256, 28, 1, 32, 16, 2)]
SIZES += [Size(32, 256, 3, 224, 96, 1), Size(32, 256, 1, 224, 96, 1)]


def crops(views: Multicrop) -> list[tuple[int, int, tuple[float, float]]]:
    """Return number, side and scale of both kinds of view."""
    large = (views.num_global, views.global_px, views.global_scale)
    return [large, (views.num_local, views.local_px, views.local_scale)]


def ours(views: Multicrop, device: torch.device) -> Callable[[Tensor], object]:
    generator = torch.Generator(device).manual_seed(0)
    return lambda pixels: views(pixels, generator=generator)


def kornia(views: Multicrop, cropping: str, fused: bool) -> Callable[[Tensor], object]:
    from kornia import augmentation as K

    strengths = (views.brightness, views.contrast, views.saturation, views.hue)
    kernel, threshold = (BLUR_KERNEL_PX, BLUR_KERNEL_PX), views.solarize_threshold / 255

    def pipeline(px: int, scale: tuple[float, float]) -> nn.Module:
        return nn.Sequential(
            K.RandomResizedCrop((px, px), scale=scale, ratio=views.ratio, cropping_mode=cropping),
            K.RandomHorizontalFlip(p=views.flip_prob),
            K.ColorJitter(*strengths, p=views.jitter_prob),
            K.RandomGrayscale(p=views.grey_prob),
            K.RandomGaussianBlur(kernel, views.blur_sigma, p=views.blur_prob),
            K.RandomSolarize((threshold, threshold), (0.0, 0.0), p=views.solarize_prob),
            K.Normalize(torch.tensor(views.mean), torch.tensor(views.std)),
        )

    kinds = [(num, pipeline(px, scale)) for num, px, scale in crops(views)]

    def run(pixels: Tensor) -> list[Tensor]:
        images = (pixels / 255).expand(-1, 3, -1, -1)
        if fused:
            return [augment(images.repeat(num, 1, 1, 1)) for num, augment in kinds]
        return [torch.stack([augment(images) for _ in range(num)]) for num, augment in kinds]

    return run


def torchvision(views: Multicrop) -> Callable[[Tensor], object]:
    strengths = (views.brightness, views.contrast, views.saturation, views.hue)

    def pipeline(px: int, scale: tuple[float, float]) -> v2.Compose:
        return v2.Compose(
            [
                v2.RandomResizedCrop(px, scale=scale, ratio=views.ratio, antialias=True),
                v2.RandomHorizontalFlip(views.flip_prob),
                v2.RandomApply([v2.ColorJitter(*strengths)], views.jitter_prob),
                v2.RandomGrayscale(views.grey_prob),
                v2.RandomApply([v2.GaussianBlur(BLUR_KERNEL_PX, views.blur_sigma)], views.blur_prob),
                v2.RandomSolarize(views.solarize_threshold, views.solarize_prob),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(views.mean, views.std),
            ]
        )

    kinds = [(num, pipeline(px, scale)) for num, px, scale in crops(views)]

    def run(pixels: Tensor) -> list[Tensor]:
        images = pixels[:NUM_SAMPLES].expand(-1, 3, -1, -1)
        return [torch.stack([augment(image) for _ in range(num) for image in images]) for num, augment in kinds]

    return run


def measure(size: Size, rounds: int, device: torch.device) -> dict[str, float]:
    """Return views a second of every method, from the median of its rounds."""
    torch.manual_seed(0)
    pixels = torch.randint(0, 256, (size.batch, size.channels, size.canvas_px, size.canvas_px), dtype=torch.uint8)
    views = Multicrop(global_px=size.global_px, local_px=size.local_px)
    methods = {"ours": ours(views, device)}
    for cropping, fused in product(("slice", "resample"), (False, True)):
        name = f"kornia, {cropping}, {'one batch' if fused else 'view by view'}"
        methods[name] = kornia(views, cropping, fused)
    calls = {name: partial(method, pixels.to(device)) for name, method in methods.items()}
    calls["torchvision"] = partial(torchvision(views), pixels)
    num_views = views.num_global + views.num_local
    images = {name: NUM_SAMPLES if name == "torchvision" else size.batch for name in calls}
    return {name: images[name] * num_views / took for name, took in in_turn(calls, rounds).items()}


def fastest_kornia(rates: dict[str, float]) -> str:
    """Return the name of kornia's fastest way."""
    return max((name for name in rates if name.startswith("kornia")), key=rates.__getitem__)


def write_table(results: dict[Size, dict[str, float]], args: argparse.Namespace) -> Path:
    notes = [
        f"Views a second, medians of {args.rounds} rounds; all methods in turn in one process, from uint8 to "
        "normalised float32.",
        "2 global and 6 local views with all operations; kornia counts in its fastest of four ways, named below.",
        "kornia resizes without antialiasing, ours and torchvision with it. Peers get grey sets as three channels.",
    ]
    columns = ["batch", "ours", "kornia", "ours / kornia", "bar", "torchvision, per sample", "ours / torchvision"]
    rows = []
    for size, rates in results.items():
        best = fastest_kornia(rates)
        batch = f"{size.batch} x {size.channels} x {size.canvas_px} px -> {size.global_px}, {size.local_px} px"
        mine, its, slow = rates["ours"], rates[best], rates["torchvision"]
        cells = [batch, f"**{mine:,.0f}**", f"{its:,.0f}", f"**{mine / its:.1f}x**", f"{size.bar:g}x", f"{slow:,.0f}"]
        rows.append([*cells, f"{mine / slow:.0f}x", best.removeprefix("kornia, ")])
    tables = [([*columns, "kornia's way"], rows)]
    how = {"packages": ("torch", "torchvision", "kornia"), "threads": args.threads, "device": args.device}
    return write_report("views", "Multi-crop views: ours and the peers'", notes, tables, **how)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    args = parser.parse_args()
    if find_spec("kornia") is None:
        python = peer_python("kornia")
        if subprocess.run([python, "-c", "import kornia"], check=False).returncode:
            raise SystemExit("benchmarks.views compares with kornia, which did not install; see the messages above")
        return subprocess.run([python, "-m", "benchmarks.views", *sys.argv[1:]], cwd=ROOT, check=False).returncode
    torch.set_num_threads(args.threads)
    results = {size: measure(size, args.rounds, torch.device(args.device)) for size in SIZES}
    print(write_table(results, args).read_text(encoding="utf-8"))
    missed = [size for size, rates in results.items() if rates["ours"] < size.bar * rates[fastest_kornia(rates)]]
    for size in missed:
        print(f"missed its bar: {size}", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
