"""Where a training step's time goes, and images a second beside a plain per-sample loop: python -m benchmarks.step

A step is taken apart by timing its parts on the same tensors: views, backbone and projector (forward, and backward from
a given gradient), objective (forward and backward), optimiser. The share is backbone and projector over the sum of the
parts; a whole step, timed by itself, stands beside it. The peer is what most people write first: torchvision v2
transforms image by image in a DataLoader with two workers; backbone, projector, objective and optimiser are the same.
Both train on the same images; the two loops take turns, a figure is the median over the turns.

Writes reports/benchmarks/step.md. Exits with 1 if resnet18's share is under 85 % or its ratio under 2.
"""

from __future__ import annotations

import argparse
import datetime
import statistics
import sys
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from benchmarks.sigreg_table import hardware
from pipeline import backbones, training
from pipeline.datasets import ImageBatch, batches
from pipeline.seeds import generator
from pipeline.views import Multicrop

BATCH, PROJ_DIM = 64, 64
VIEWS = Multicrop(num_global=2, num_local=6, global_px=32, local_px=32)
MODELS = {"resnet18": None, "vit_tiny_patch16_224": 8}
PARTS = ("views", "backbone and projector", "objective", "optimiser")
LEAST_SHARE, LEAST_RATIO = 0.85, 2.0


class PerSample(Dataset):
    """One image at a time through torchvision v2, as in most training scripts."""

    def __init__(self, images: ImageBatch) -> None:
        self.images = images
        self.crops = [self.pipeline(VIEWS.global_px, VIEWS.global_scale)] * VIEWS.num_global
        self.crops += [self.pipeline(VIEWS.local_px, VIEWS.local_scale)] * VIEWS.num_local

    @staticmethod
    def pipeline(size_px: int, scale: tuple[float, float]) -> v2.Compose:
        jitter = v2.ColorJitter(VIEWS.brightness, VIEWS.contrast, VIEWS.saturation, VIEWS.hue)
        return v2.Compose(
            [
                v2.RandomResizedCrop(size_px, scale=scale, antialias=True),
                v2.RandomHorizontalFlip(VIEWS.flip_prob),
                v2.RandomApply([jitter], VIEWS.jitter_prob),
                v2.RandomGrayscale(VIEWS.grey_prob),
                v2.RandomApply([v2.GaussianBlur(7, VIEWS.blur_sigma)], VIEWS.blur_prob),
                v2.RandomSolarize(VIEWS.solarize_threshold, VIEWS.solarize_prob),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(VIEWS.mean, VIEWS.std),
            ]
        )

    def __len__(self) -> int:
        return len(self.images.labels)

    def __getitem__(self, index: int) -> Tensor:
        return torch.stack([crop(self.images.pixels[index]) for crop in self.crops])


def made_images(count: int) -> ImageBatch:
    pixels = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return ImageBatch(pixels, torch.ones(count), torch.zeros(count, dtype=torch.long))


def make_learner(name: str, patch_size: int | None) -> training.Learner:
    arguments = backbones.backbone_arguments(name, img_size=32, patch_size=patch_size)
    backbone = backbones.initial_backbone(name, arguments, seed=0)
    projector = backbones.make_projector(backbone.num_features, [2048, 2048], PROJ_DIM)
    settings = {"lr": 1e-4, "weight_decay": 0.05, "betas": [0.9, 0.999]}
    return training.make_learner(backbone, projector, torch.device("cpu"), settings)


def make_objective() -> training.Objective:
    grid = {"statistic": "epps_pulley", "num_slices": 1024, "t_max": 3.0, "num_knots": 17}
    return training.lejepa_objective(lamb=0.05, num_global=VIEWS.num_global, seed=0, proj_dim=PROJ_DIM, **grid)


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def parts(learner: training.Learner, images: ImageBatch, rounds: int) -> dict[str, float]:
    """Return the median seconds of the parts of a step and of the whole step."""
    objective = make_objective()
    (batch,) = batches(images, torch.arange(BATCH), BATCH)
    modules = torch.nn.ModuleList([learner.backbone, learner.projector])
    found: dict[str, list[float]] = {}

    def whole(step: int) -> None:
        views = VIEWS(batch.pixels, batch.aspect, generator=generator(0, "views", step))
        losses = objective(training.project_views(learner.backbone, learner.projector, list(views)), step)
        learner.step(losses.loss, 1e-4)

    def apart(step: int) -> dict[str, float]:
        took, kept = {}, {}
        draws = generator(0, "views", step)
        took["views"] = seconds(lambda: kept.update(views=VIEWS(batch.pixels, batch.aspect, generator=draws)))
        modules.zero_grad()
        forward = seconds(
            lambda: kept.update(z=training.project_views(learner.backbone, learner.projector, list(kept["views"])))
        )
        leaf = kept["z"].detach().requires_grad_()
        took["objective"] = seconds(lambda: objective(leaf, step).loss.backward())
        took["backbone and projector"] = forward + seconds(lambda: kept["z"].backward(leaf.grad))
        took["optimiser"] = seconds(learner.optimizer.step)
        return took

    for step in range(rounds + 1):
        taken = {**apart(step), "whole step": seconds(lambda step=step: whole(step))}
        if step:  # the first round warms up
            for name, value in taken.items():
                found.setdefault(name, []).append(value)
    return {name: statistics.median(values) for name, values in found.items()}


def our_loop(learner: training.Learner, images: ImageBatch) -> None:
    objective = make_objective()
    order = torch.randperm(len(images.labels))
    for step, batch in enumerate(batches(images, order, BATCH, drop_last=True)):
        views = VIEWS(batch.pixels, batch.aspect, generator=generator(0, "views", step))
        projections = training.project_views(learner.backbone, learner.projector, list(views))
        learner.step(objective(projections, step).loss, 1e-4)


def plain_loop(learner: training.Learner, images: ImageBatch) -> None:
    objective = make_objective()
    loader = DataLoader(PerSample(images), batch_size=BATCH, shuffle=True, num_workers=2, drop_last=True)
    for step, views in enumerate(loader):
        projections = training.project_views(learner.backbone, learner.projector, [views.transpose(0, 1)])
        learner.step(objective(projections, step).loss, 1e-4)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3, help="turns that count (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=2, help="steps a turn of the two loops (default: %(default)s)")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    images = made_images(BATCH * args.steps)
    lines, missed = [], []
    for name, patch_size in MODELS.items():
        learner = make_learner(name, patch_size)
        took = parts(learner, images, args.rounds)
        share = took["backbone and projector"] / sum(took[part] for part in PARTS)
        turns = [
            [seconds(lambda loop=loop: loop(learner, images)) for loop in (our_loop, plain_loop)]  # noqa: B023
            for _ in range(args.rounds)
        ]
        rates = [len(images.labels) / statistics.median(column) for column in zip(*turns, strict=True)]
        columns = [f"{took[part] * 1e3:.1f}" for part in PARTS]
        shown = [*columns, f"{took['whole step'] * 1e3:.1f}", f"**{share:.0%}**"]
        shown += [f"{rates[0]:.0f}", f"{rates[1]:.0f}", f"**{rates[0] / rates[1]:.1f}x**"]
        lines.append(f"| {name} | {' | '.join(shown)} |")
        print(lines[-1], flush=True)
        if name == "resnet18" and (share < LEAST_SHARE or rates[0] / rates[1] < LEAST_RATIO):
            missed.append(f"{name}: share {share:.0%} (bar {LEAST_SHARE:.0%}), ratio {rates[0] / rates[1]:.1f} (bar 2)")
    write(lines, args)
    print("".join(f"missed: {line}\n" for line in missed), end="", file=sys.stderr)
    return 1 if missed else 0


def write(lines: list[str], args: argparse.Namespace) -> None:
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("torch", "torchvision", "timm"))
    head = f"""# A training step

- Date: {datetime.date.today()}
- Hardware: {hardware("cpu", args.threads)}
- Versions: {versions}
- Command: `python -m benchmarks.step --threads {args.threads} --rounds {args.rounds} --steps {args.steps}`
- {BATCH} colour images of 32 px, 2 global and 6 local views of 32 px with all operations, float32,
  projector 2048-2048-{PROJ_DIM}, 1024 slices, 17 knots; milliseconds, medians. Share: backbone and
  projector, forward and backward, of the sum of the parts.
- Plain loop: torchvision v2 image by image in a DataLoader with 2 workers, started anew at each turn.

| model | views | backbone and projector | objective | optimiser | whole step | share | images/s | plain loop | ratio |
| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |
"""
    path = Path(__file__).parents[1] / "reports/benchmarks/step.md"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(head + "\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
