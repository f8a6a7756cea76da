"""What all trainings of a comparison share: images, backbone, device; one training on it, and its probes.

Legend: N images, D embedding.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.core.checkpoints import Checkpoints
from pipeline.core.distributed.devices import announced, choose_device, peak_memory_mib
from pipeline.data.loader import open_split
from pipeline.data.packed import ImageBatch, read_meta
from pipeline.data.strata import members_by_class
from pipeline.data.views.multicrop import Multicrop
from pipeline.losses.objective import RunObjective, build_objective
from pipeline.models import backbones, features
from pipeline.models.features import Reader
from pipeline.probing import probes
from pipeline.runtime.errors import UserError
from pipeline.runtime.rooms import own_objective
from pipeline.schema.pretrain import Pretrain
from pipeline.schema.trials import Trials
from pipeline.training.learner import Learner, build_learner
from pipeline.training.loop import Recipe, pretrain, step_losses
from pipeline.training.monitor import NullTracker, run_epochs

NUM_TIMED, NUM_WARM = 24, 4  # steps of each objective, by turns; measured: the ratio of their medians varies by 2 %


@dataclass(frozen=True)
class Trial:
    """One training: objective, its tuned settings, length and seed."""

    objective: str
    lr: float
    weight: float
    epochs: int
    seed: int


@dataclass(frozen=True)
class Bench:
    """A data set, in memory, with all that its trainings share.

    Attributes:
        section: the settings of the comparison.
        dataset: name of a folder of data/.
        meta: of the packed set.
        train, test: the images.
        arguments: of timm.create_model.
        embed_dim: D.
    """

    section: Trials
    dataset: str
    meta: dict[str, Any]
    train: ImageBatch
    test: ImageBatch
    arguments: dict[str, Any]
    embed_dim: int
    device: torch.device
    autocast: torch.autocast

    @property
    def num_classes(self) -> int:
        """C."""
        return len(self.meta["classes"])

    def settings(self, trial: Trial) -> Pretrain:
        """Return the section `pretrain` of a training."""
        how = {"weight": trial.weight, "epochs": trial.epochs, "lr": trial.lr}
        return self.section.settings_of(self.dataset, trial.objective, **how)

    def reader(self) -> Reader:
        """Return how a frozen backbone is shown images: as in training."""
        views = self.settings(Trial(self.section.reference, 1.0, 1.0, self.section.pretrain.epochs, 0)).views
        shown = views.global_px, views.mean, views.std, self.section.probe.batch_size
        return Reader(*shown, num_workers=0, device=self.device, autocast=self.autocast)

    def identity(self, trial: Trial) -> list[Any]:
        """Return what determines a training on all images and its probes, as JSON value."""
        shared = [self.meta, self.section.backbone, self.arguments, len(self.train.labels)]
        told = self.settings(trial).result_key(), self.section.probe.model_dump(mode="json")
        return [*shared, asdict(trial), *told, own_objective(trial.objective)]


def open_bench(section: Trials, dataset: str) -> Bench:
    """Read a data set into memory and try the backbone.

    Raises:
        UserError: photographs, too few images of a class, or a backbone that does not fit the views.
    """
    settings, folder = section.pretrain, Path("data") / dataset
    meta, device = read_meta(folder), choose_device(settings.device)
    how = {"load_px": settings.load_px, "memory_gb": settings.loader.memory_gb}
    splits = [open_split(folder, name, **how) for name in ("train", "test")]
    if not all(isinstance(split, ImageBatch) for split in splits):
        raise UserError(
            f"data set {dataset!r} is not read whole into memory; trials need images of one size: raise "
            "trials.pretrain.load_px or trials.pretrain.loader.memory_gb, or compare objectives in a grid"
        )
    train, test = splits
    if section.num_train is not None and section.num_train < len(train.labels):
        train = part(train, balanced(train.labels, section.num_train))
    views, px = settings.views, settings.views.global_px
    arguments = backbones.backbone_arguments(section.backbone, img_size=px, **settings.backbone.model_dump())
    local_px = views.local_px if views.num_local else None
    shape = {"global_px": px, "local_px": local_px, "batch_size": settings.batch_size}
    found = backbones.check_backbone(section.backbone, arguments, **shape)
    autocast = announced(settings.precision, device)
    return Bench(section, dataset, meta, train, test, arguments, found.embed_dim, device, autocast)


def balanced(labels: Tensor, num_images: int) -> Tensor:
    """Draw `num_images` indices, rounded down to equally many of each class, with seed 0; sorted.

    Raises:
        UserError: a class has fewer.
    """
    members = members_by_class(labels, seed=0, purpose="trials")
    each, fewest = num_images // len(members), min(map(len, members))
    if not 1 <= each <= fewest:
        most = fewest * len(members)
        raise UserError(f"trials.num_train must be {len(members)} to {most}, got {num_images}; change it")
    return torch.cat([one[:each] for one in members]).sort().values


def part(images: ImageBatch, members: Tensor) -> ImageBatch:
    """Return the images with these indices."""
    return ImageBatch(*(values[members] for values in images))


def _begin(bench: Bench, trial: Trial) -> tuple[Learner, Recipe, RunObjective]:
    settings, section = bench.settings(trial), bench.section
    backbone = backbones.initial_backbone(section.backbone, bench.arguments, seed=trial.seed)
    shape = {"lamb": section.lamb(trial.objective, trial.weight), "num_global": settings.views.num_global}
    objective = build_objective(trial.objective, settings.objective_settings(), **shape, seed=trial.seed)
    what = {"objective": objective.objective, "num_classes": bench.num_classes}
    learner = build_learner(backbone, bench.embed_dim, settings, bench.device, **what)
    return learner, Recipe(Multicrop(**settings.views.model_dump()), objective, trial.seed), objective


def trained(
    bench: Bench, trial: Trial, images: ImageBatch, checkpoints: Checkpoints
) -> tuple[nn.Module, dict[str, Any]]:
    """Train on images; return the backbone and what the training came to.

    Raises:
        NonFiniteLossError: it diverged.
    """
    settings = bench.settings(trial)
    learner, recipe, objective = _begin(bench, trial)
    how = {"device": bench.device, "autocast": bench.autocast, "checkpoints": checkpoints}
    epochs = pretrain(learner, images, settings, recipe, **how)
    steps_per_epoch = len(images.labels) // settings.batch_size
    history, story, times = run_epochs(epochs, NullTracker(), settings, steps_per_epoch=steps_per_epoch)
    images_seen = len(history) * steps_per_epoch * settings.batch_size
    facts = {
        "num_images": len(images.labels),
        "images_seen": images_seen,
        "train_loss": history[-1]["loss"],
        "collapsed": story["collapsed"],
        "train_s": times["train_s"],
        "images_per_s": images_seen / times["train_s"],
        "peak_memory_mib": peak_memory_mib(bench.device),
    }
    return learner.backbone, facts | objective.weighing(settings.batch_size)


def embedded(bench: Bench, backbone: nn.Module, *splits: ImageBatch) -> list[probes.Split]:
    """Return the frozen features of splits, on the bench's device."""
    site, reader, device = bench.section.probe.site, bench.reader(), bench.device
    return [
        probes.Split(features.embeddings(backbone, images, reader, site=site).to(device), images.labels.to(device))
        for images in splits
    ]


def relative_time(bench: Bench, trial: Trial, reference: Trial) -> float:
    """Return the seconds of a step over those of the reference's, medians of steps taken by turns.

    By turns, since what else the machine does then slows both.
    """
    steps = [_stepper(bench, one) for one in (trial, reference)]
    times: list[list[float]] = [[], []]
    for number in range(NUM_WARM + NUM_TIMED):
        for step, seconds in zip(steps, times, strict=True):
            started = perf_counter()
            step(number)
            seconds.append(perf_counter() - started)
    mine, its = (median(seconds[NUM_WARM:]) for seconds in times)
    return mine / its


def _stepper(bench: Bench, trial: Trial) -> Callable[[int], None]:
    """Return a function that takes one step of a training, on the first images, and waits for the device."""
    (learner, recipe, _), batch_size = _begin(bench, trial), bench.section.pretrain.batch_size
    first = torch.arange(batch_size) % len(bench.train.labels)
    batch = ImageBatch(*(values.to(bench.device) for values in part(bench.train, first)))

    def take(step: int) -> None:
        losses = step_losses(learner, batch, recipe, step, batch_size=batch_size, autocast=bench.autocast)
        learner.step(losses["loss"], 1e-6)
        float(losses["loss"].detach())

    return take
