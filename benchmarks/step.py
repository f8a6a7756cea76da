"""Where a training step's time goes, and images a second beside a plain per-sample loop: python -m benchmarks.step

A step is taken apart by timing its parts on the same tensors: views, backbone and projector (forward, and backward from
a given gradient), objective (forward and backward), optimiser. The share is backbone and projector over the sum of the
parts; a whole step, timed by itself, stands beside it. The peer is what most people write first: torchvision v2
transforms image by image in a DataLoader with two workers; backbone, projector, objective and optimiser are the same.
Our loop runs in four settings: as it is, with pretrain.channels_last, with pretrain.compile, and with both. All loops
train on the same images and take turns; a figure is the median over the turns, the first of which, with the
compilation, does not count.

Writes reports/benchmarks/step.md. Exits with 1 if resnet18's share is under 85 %, or if its ratio is under 2 both as it
is and with channels_last.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from functools import partial

import torch
from torch import Tensor
from torch._dynamo.exc import BackendCompilerFailed
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from benchmarks.measure import in_turn, seconds, write_report
from pipeline.core.seeds import generator
from pipeline.data.loader import batches
from pipeline.data.packed import ImageBatch
from pipeline.data.views.multicrop import Multicrop
from pipeline.losses.objective import LeJEPA, RunObjective
from pipeline.models import backbones
from pipeline.models.projector import make_projector, project_views
from pipeline.schema.pretrain import Optimizer, Pretrain, Schedule
from pipeline.training import learner

BATCH, PROJ_DIM = 64, 64
VIEWS = Multicrop(num_global=2, num_local=6, global_px=32, local_px=32)
MODELS = {"resnet18": None, "vit_tiny_patch16_224": 8, "test_convnext": None}
GATED = "resnet18"
PARTS = ("views", "backbone and projector", "objective", "optimiser")
SETTINGS = {
    "as it is": {},
    "channels_last": {"channels_last": True},
    "compile": {"compile": True},
    "both": {"channels_last": True, "compile": True},
}
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
    return ImageBatch(pixels, torch.zeros(count, dtype=torch.long))


def make_learner(name: str, device: torch.device, **settings: bool) -> learner.Learner:
    arguments = backbones.backbone_arguments(name, img_size=32, patch_size=MODELS[name])
    backbone = backbones.initial_backbone(name, arguments, seed=0)
    projector = make_projector(backbone.num_features, hidden_dims=[2048, 2048], proj_dim=PROJ_DIM)
    chosen = {"channels_last": False, **settings}
    optimizer, schedule = Optimizer(lr=1e-4, weight_decay=0.05), Schedule(warmup_epochs=0)
    pretrain = Pretrain(epochs=1, batch_size=BATCH, optimizer=optimizer, schedule=schedule, **chosen)
    return learner.make_learner(backbone, projector, pretrain, device)


def make_objective() -> RunObjective:
    return RunObjective(LeJEPA(num_slices=1024), lamb=0.05, num_global=VIEWS.num_global, seed=0)


def train_step(state: learner.Learner, batch: ImageBatch, objective: RunObjective, step: int) -> None:
    draws = generator(0, "views", step, device=batch.pixels.device)
    views = VIEWS(batch.pixels, generator=draws)
    projections = project_views(state.backbone, state.projector, list(views))
    state.step(objective(projections, step)["loss"], 1e-4)


def parts(state: learner.Learner, images: ImageBatch, rounds: int, device: torch.device) -> dict[str, float]:
    """Return the median seconds of the parts of a step and of the whole step."""
    objective = make_objective()
    (batch,) = batches(images, torch.arange(BATCH), BATCH, device=device)
    modules = torch.nn.ModuleList([state.backbone, state.projector])
    found: dict[str, list[float]] = {}

    def apart(step: int) -> dict[str, float]:
        took, kept = {}, {}
        draws = generator(0, "views", step, device=device)
        took["views"] = seconds(lambda: kept.update(views=VIEWS(batch.pixels, generator=draws)))
        modules.zero_grad()
        forward = seconds(lambda: kept.update(z=project_views(state.backbone, state.projector, list(kept["views"]))))
        leaf = kept["z"].detach().requires_grad_()
        took["objective"] = seconds(lambda: objective(leaf, step)["loss"].backward())
        took["backbone and projector"] = forward + seconds(lambda: kept["z"].backward(leaf.grad))
        took["optimiser"] = seconds(state.optimizer.step)
        return took

    for step in range(rounds + 1):
        taken = {**apart(step), "whole step": seconds(partial(train_step, state, batch, objective, step))}
        if step:  # the first round warms up
            for name, value in taken.items():
                found.setdefault(name, []).append(value)
    return {name: statistics.median(values) for name, values in found.items()}


def our_loop(state: learner.Learner, images: ImageBatch, device: torch.device) -> None:
    objective, order = make_objective(), torch.randperm(len(images.labels))
    for step, batch in enumerate(batches(images, order, BATCH, device=device, drop_last=True)):
        train_step(state, batch, objective, step)


def plain_loop(state: learner.Learner, images: ImageBatch, device: torch.device) -> None:
    objective = make_objective()
    loader = DataLoader(PerSample(images), batch_size=BATCH, shuffle=True, num_workers=2, drop_last=True)
    for step, views in enumerate(loader):
        groups = [views.to(device).transpose(0, 1)]
        projections = project_views(state.backbone, state.projector, groups)
        state.step(objective(projections, step)["loss"], 1e-4)


def why_not(name: str, images: ImageBatch, device: torch.device) -> str:
    """Try a compiled step; return the compiler's reason if it fails, else nothing."""
    torch._dynamo.reset()  # a module counts against the limit of recompilations of the ones before it
    try:
        our_loop(make_learner(name, device, compile=True), images, device)
    except BackendCompilerFailed as error:
        return f"does not compile: {str(error).splitlines()[0]}"
    return ""


def rates(name: str, images: ImageBatch, rounds: int, device: torch.device) -> tuple[dict[str, float], str]:
    """Return images a second of the plain loop and of ours in every setting, and why compiled ones are missing."""
    reason = why_not(name, images, device)
    loops = {"plain": partial(plain_loop, make_learner(name, device), images, device)}
    for setting, switches in SETTINGS.items():
        if not (reason and "compile" in switches):
            loops[setting] = partial(our_loop, make_learner(name, device, **switches), images, device)
    return {loop: len(images.labels) / took for loop, took in in_turn(loops, rounds).items()}, reason


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3, help="turns that count (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=2, help="steps a turn of a loop (default: %(default)s)")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    device, images = torch.device(args.device), made_images(BATCH * args.steps)
    shares, speeds, missed = [], [], []
    for name in MODELS:
        took = parts(make_learner(name, device), images, args.rounds, device)
        share = took["backbone and projector"] / sum(took[part] for part in PARTS)
        shares.append([name, *(f"{1e3 * took[part]:.1f}" for part in (*PARTS, "whole step")), f"**{share:.0%}**"])
        found, reason = rates(name, images, args.rounds, device)
        speeds.append([name, *(f"{found[setting]:.0f}" if setting in found else reason for setting in SETTINGS)])
        ratios = [found[setting] / found["plain"] for setting in ("as it is", "channels_last")]
        speeds[-1] += [f"{found['plain']:.0f}", *(f"**{ratio:.1f}x**" for ratio in ratios)]
        print(shares[-1], speeds[-1], flush=True)
        if name == GATED and (share < LEAST_SHARE or max(ratios) < LEAST_RATIO):
            missed.append(f"missed: {name}: share {share:.0%} (bar {LEAST_SHARE:.0%}), ratios {ratios} (bar 2)\n")
    path = write(shares, speeds, args)
    print(f"wrote {path}\n", *missed, sep="", end="")
    return 1 if missed else 0


def write(shares: list[list[str]], speeds: list[list[str]], args: argparse.Namespace):
    notes = [
        f"{BATCH} colour images of 32 px, 2 global and 6 local views of 32 px with all operations, float32, projector "
        f"2048-2048-{PROJ_DIM}, 1024 slices, 17 knots; medians of {args.rounds} turns.",
        "First table: milliseconds. Share: backbone and projector, forward and backward, of the sum of the parts.",
        "Second table: images a second. channels_last and compile are the switches of `pretrain`, compilation time not "
        f"counted. Plain loop: torchvision v2 image by image in a DataLoader with 2 workers, started anew at each turn "
        f"of {args.steps} steps.",
    ]
    tables = [
        (["model", *PARTS, "whole step", "share"], shares),
        (["model", *SETTINGS, "plain loop", "as it is / plain", "channels_last / plain"], speeds),
    ]
    packages = ("torch", "torchvision", "timm")
    return write_report(
        "step", "A training step", notes, tables, packages=packages, threads=args.threads, device=args.device
    )


if __name__ == "__main__":
    sys.exit(main())
