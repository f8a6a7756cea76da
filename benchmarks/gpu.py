"""All that is to be known of a GPU, in one report: make gpu, or python -m benchmarks.gpu [--minutes 12] [--cifar10 SET]

In turn: the tests that need a GPU; SIGReg forward and backward beside the plain form and the peers that are installed,
with the memory traffic it needs against the card's copy bandwidth; training steps with channels_last, bfloat16 and
compile switched one by one; decoding, crops and copy beside the step; then, for the minutes that are left, the recipe
of paper/cifar10_resnet18, which goes on where the last call ended, beside the 91.02 of eb_jepa at 300 epochs.

SET is a packed folder, or parquet files with {split} in their name; without it data/cifar10, if it is there. Writes
reports/gpu/report.md and report.json. Exits with 1 if a figure misses its bar, with 2 without a GPU. --tiny is a dry
run, also on a CPU.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from statistics import median
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import sigreg as peers
from benchmarks import stream
from benchmarks.gpu_cifar import END_S, cifar_figures
from benchmarks.gpu_report import ROOT, Figure, Report
from benchmarks.measure import seconds
from benchmarks.sigreg_table import SIZES, Size
from pipeline.core.distributed.devices import choose_autocast
from pipeline.core.seeds import generator
from pipeline.data.loader import BatchReader
from pipeline.data.packed import PackedSplit
from pipeline.data.photographs import RandomCut
from pipeline.data.views.multicrop import Multicrop
from pipeline.losses.lejepa import random_directions, sigreg
from pipeline.losses.objective import LeJEPA, RunObjective
from pipeline.models.backbones import backbone_arguments, initial_backbone
from pipeline.runtime.bars import num_cpus
from pipeline.schema.pretrain import Pretrain
from pipeline.sources.images import Picture
from pipeline.sources.packing import pack
from pipeline.training.learner import Learner, build_learner

LEAST_SHARE = 0.85  # of a step in backbone and projector, as benchmarks.step has it
SWITCHES = {
    "float32": {},
    "float32, channels_last": {"channels_last": True},
    "bfloat16": {"precision": "bfloat16"},
    "bfloat16, channels_last": {"precision": "bfloat16", "channels_last": True},
    "bfloat16, channels_last, compile": {"precision": "bfloat16", "channels_last": True, "compile": True},
}


class Step(NamedTuple):
    """A training step that is measured: backbone, its arguments, images a step and views."""

    title: str
    backbone: str
    arguments: dict
    batch_size: int
    views: Multicrop


SMALL = Multicrop(num_local=0, global_px=32, global_scale=(0.2, 1.0), blur_prob=0.0)
LARGE = Multicrop(num_global=2, num_local=6, global_px=224, local_px=96)
STEPS = [
    Step("resnet18, 32 px, 2 views", "resnet18", {"small_stem": True}, 256, SMALL),
    Step("resnet18, 224 px, 8 views", "resnet18", {}, 64, LARGE),
    Step("ViT-S/16, 224 px, 8 views", "vit_small_patch16_224", {}, 64, LARGE),
]
TINY_VIEWS = Multicrop(num_local=1, global_px=32, local_px=16)
TINY_STEPS = [Step("test_vit, 32 px, 3 views", "test_vit", {"patch_size": 8}, 4, TINY_VIEWS)]
TINY_SIZES = [(64, 8, 16, 5)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=12.0, help="for everything (default: %(default)g)")
    parser.add_argument("--cifar10", default=str(ROOT / "data" / "cifar10"), metavar="SET", help="see above")
    parser.add_argument("--out", type=Path, default=ROOT / "reports" / "gpu", help="folder of the report")
    parser.add_argument("--tiny", action="store_true", help="dry run of tiny sizes")
    args = parser.parse_args()
    report = Report(args.out, time.monotonic() + 60 * args.minutes, args.tiny)
    has_gpu = torch.cuda.is_available()
    if not has_gpu:
        report.undone.append("everything on a GPU: torch finds none (python -m stages.check says why)")
        report.write()
    if not has_gpu and not args.tiny:
        print(f"torch finds no GPU; {args.out / 'report.md'} says so. A dry run: python -m benchmarks.gpu --tiny")
        return 2
    device = torch.device("cuda" if has_gpu else "cpu")
    report.run("Tests that need a GPU", partial(gpu_tests, args.tiny), needs_s=30)
    report.run("SIGReg", partial(sigreg_figures, report, device), needs_s=30)
    rates: dict[str, float] = {}
    for step in TINY_STEPS if args.tiny else STEPS:
        report.run(f"Step: {step.title}", partial(step_figures, report, step, device, rates), needs_s=60)
    report.run("Loader", partial(loader_figures, report, device, rates), needs_s=45)
    report.run("CIFAR-10", partial(cifar_figures, report, device, args.cifar10), needs_s=2 * END_S * (not args.tiny))
    failed = report.failed()
    print(f"wrote {args.out / 'report.md'}", *(f"misses its bar: {name}" for name in failed), sep="\n")
    print(*(f"not done: {line}" for line in report.undone), sep="\n")
    return 1 if failed else 0


def gpu_tests(tiny: bool) -> Iterator[Figure]:
    """Run the tests marked gpu; each is skipped without one."""
    if tiny:
        yield Figure("tests", None, text="left out of a dry run: pytest -m gpu tests")
        return
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", "tests"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)
    told = (done.stdout.strip().splitlines() or ["no output"])[-1]
    yield Figure(f"tests that fail ({told})", float(done.returncode != 0), "", "none", done.returncode == 0)


def copy_bandwidth(device: torch.device, num_bytes: int) -> float:
    """Return the bytes a second of a copy on the device, read and written."""
    source = torch.empty(num_bytes, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * num_bytes / median(seconds(lambda: target.copy_(source)) for _ in range(9))


def least_bytes(size: Size) -> int:
    """Return what SIGReg with its gradient moves: the projected samples are written once, read three times and
    overwritten once, beside projections, gradient and directions."""
    num, dim, num_slices, _ = size
    return 4 * (5 * num * num_slices + 3 * num * dim + 2 * dim * num_slices)


def sigreg_figures(report: Report, device: torch.device) -> Iterator[Figure]:
    """Time SIGReg and its gradient; compare its value with the plain form's in float64."""
    bandwidth = copy_bandwidth(device, 2**20 if report.tiny else 2**30)
    yield Figure("copy bandwidth", bandwidth / 1e9, "GB/s")
    for size in TINY_SIZES if report.tiny else SIZES:
        z, directions = peers.projections(size, device.type), random_directions(*size[1:3])
        few = z.detach()[:256, :]
        error = abs(
            float(sigreg(few, directions.to(device), num_knots=size[3])) / plain_value(few, directions, size) - 1
        )
        yield Figure(f"{size}: value off the plain form", error, "", "<= 1e-4", error <= 1e-4)
        steps, reasons = peers.build(size, device.type)
        took: dict[str, float] = {}
        for name, loss in steps.items():
            took[name] = timed(partial(peers.seconds, loss, z), 0.01 if report.tiny else 1.0)
            yield Figure(f"{size}: {name}", 1e3 * took[name], "ms")
        for name, reason in reasons.items():
            yield Figure(f"{size}: {name}", None, text=reason)
        share = least_bytes(size) / took["ours"] / bandwidth
        yield Figure(f"{size}: memory traffic of copy bandwidth", 100 * share, "%")
        if len(took) > 1:
            ratio = min(value for name, value in took.items() if name != "ours") / took["ours"]
            passed = None if report.tiny else ratio >= 1
            yield Figure(f"{size}: fastest other form / ours", ratio, "x", ">= 1", passed)


def plain_value(z: Tensor, directions: Tensor, size: Size) -> float:
    """Return SIGReg as the paper writes it, in float64 on the CPU."""
    t = torch.linspace(0, 3, size[3], dtype=torch.float64)
    weight = torch.full_like(t, 6 / (size[3] - 1))
    weight[[0, -1]] /= 2
    normal, total = torch.exp(-t.square() / 2), 0.0
    for column in (z.double().cpu() @ directions.double()).T:
        angles = column[:, None] * t
        gap = (angles.cos().mean(0) - normal).square() + angles.sin().mean(0).square()
        total += len(z) * float(gap @ (weight * normal))
    return total / directions.shape[1]


def timed(work: Callable[[], float], budget_s: float) -> float:
    """Return the median of the seconds that calls of `work` return; the first two warm up."""
    for _ in range(2):
        work()
    took: list[float] = []
    while len(took) < 3 or (sum(took) < budget_s and len(took) < 50):
        took.append(work())
    return median(took)


def new_step(step: Step, device: torch.device, switches: dict) -> tuple[Learner, RunObjective]:
    arguments = backbone_arguments(step.backbone, img_size=step.views.global_px, **step.arguments)
    backbone = initial_backbone(step.backbone, arguments, seed=0)
    plain = {"epochs": 1, "batch_size": step.batch_size, "channels_last": False, "schedule": {"warmup_epochs": 0}}
    settings = Pretrain.model_validate({**plain, **switches})
    objective = RunObjective(LeJEPA(), lamb=0.05, num_global=step.views.num_global, seed=0)
    return build_learner(backbone, backbone.num_features, settings, device), objective


def step_figures(report: Report, step: Step, device: torch.device, rates: dict[str, float]) -> Iterator[Figure]:
    """Time whole training steps under each switch, and once the parts outside of backbone and projector."""
    side = max(step.views.global_px, 32)
    pixels = torch.randint(0, 256, (step.batch_size, 3, side, side), dtype=torch.uint8, device=device)
    operations = 0
    for name, switches in SWITCHES.items():
        if report.tiny and "compile" in switches:
            yield Figure(name, None, text="left out of a dry run: compiling takes a minute")
            continue
        if report.left_s() < END_S:
            yield Figure(name, None, text="no time left")
            continue
        torch._dynamo.reset()
        learner, objective = new_step(step, device, switches)
        autocast = choose_autocast(switches.get("precision", "float32"), device)
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()

        def whole(learner=learner, objective=objective, autocast=autocast) -> None:
            groups = made_views(step, pixels)
            with autocast:
                projections, _ = learner.project(groups)
            learner.step(objective(projections, 0)["loss"], 1e-4)

        took = timed(lambda whole=whole: seconds(whole), 0.01 if report.tiny else 3.0)
        rate = step.batch_size / took
        rates[step.title] = max(rate, rates.get(step.title, 0.0))
        yield Figure(f"{name}: images/s", rate, "images/s")
        if not switches:
            operations = 3 * forward_operations(step, pixels, learner)  # backward takes twice those of forward
        if operations:
            yield Figure(f"{name}: operations", operations / took / 1e12, "TFLOP/s")
        if device.type == "cuda":
            yield Figure(f"{name}: peak memory", torch.cuda.max_memory_allocated() / 2**30, "GiB")
        if "compile" not in switches:
            share = 1 - beside_networks(step, pixels, learner, objective) / took
            passed = None if report.tiny or switches else share >= LEAST_SHARE
            yield Figure(f"{name}: share of backbone and projector", 100 * share, "%", ">= 85 (float32)", passed)


def forward_operations(step: Step, pixels: Tensor, learner: Learner) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        learner.project(made_views(step, pixels))
    return counter.get_total_flops()


def made_views(step: Step, pixels: Tensor) -> list[Tensor]:
    draws = generator(0, "views", device=pixels.device)
    return [group for group in step.views(pixels, generator=draws) if group is not None]


def beside_networks(step: Step, pixels: Tensor, learner: Learner, objective: RunObjective) -> float:
    """Return the seconds of views, objective with its gradient, and optimiser."""
    num_views = step.views.num_global + step.views.num_local
    leaf = torch.randn(num_views, step.batch_size, 64, device=pixels.device, requires_grad=True)
    parts = (
        lambda: made_views(step, pixels),
        lambda: objective(leaf, 0)["loss"].backward(),
        learner.optimizer.step,
    )
    return sum(timed(lambda part=part: seconds(part), 0.2) for part in parts)


def loader_figures(report: Report, device: torch.device, rates: dict[str, float]) -> Iterator[Figure]:
    """Count images a second that workers decode, cut and copy, beside the fastest step with the same views."""
    count, views = (16, TINY_VIEWS) if report.tiny else (512, LARGE)
    wanted = max((rate for title, rate in rates.items() if title.endswith(" 8 views")), default=None)
    with tempfile.TemporaryDirectory(prefix="gpu-") as place:
        files = stream.jpeg_files()
        pictures = [Picture(files[i % len(files)], i % 2, str(i)) for i in range(count)]
        pack(Path(place) / "set", "stream", {}, ["a", "b"], {"train": pictures, "test": pictures[:2]})
        images = PackedSplit(Path(place) / "set", "train", load_px=256)
        best = 0.0
        for num_workers in sorted({1, *(n for n in (2, 4, 8, 16, 32) if n <= num_cpus())})[
            : 1 if report.tiny else None
        ]:
            read = BatchReader(images, num_workers=num_workers, device=device)
            cut = RandomCut(views, 0, "crops")

            def epoch(read=read, cut=cut) -> None:
                for _ in read(torch.arange(count), 4 if report.tiny else 16, cut=cut):
                    pass

            seconds(epoch)  # starts the workers
            rate = count / seconds(epoch)
            best = max(best, rate)
            yield Figure(f"{num_workers} workers", rate, "images/s")
    if wanted is None:
        yield Figure("keeps up with the step", None, text="no step of 8 views was timed")
        return
    yield Figure("fastest loader / fastest step", best / wanted, "x", ">= 1", best >= wanted)


if __name__ == "__main__":
    sys.exit(main())
