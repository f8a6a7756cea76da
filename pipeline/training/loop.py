"""Pretraining: a plain loop that can stop at any step and resume there.

Legend: B images, V views (Vg global, Vl local), D embedding, K projection.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from pipeline.core.checkpoints import Checkpoints
from pipeline.core.distributed.collectives import alone, any_rank, from_first_rank, rank, share, world_size
from pipeline.core.results import curves
from pipeline.core.schedule import lr_factor
from pipeline.core.seeds import derive_seed, generator
from pipeline.data.loader import BatchReader, CropBatch, views_of
from pipeline.data.packed import ImageBatch, PackedSplit
from pipeline.data.photographs import RandomCut
from pipeline.runtime.errors import Interrupted, UserError
from pipeline.runtime.signals import Request, deferred_signals
from pipeline.schema.pretrain import Pretrain
from pipeline.training.epochs import STEPS_BETWEEN_CHECKS, Epoch, NonFiniteDetector, Progress, time_batches
from pipeline.training.learner import Learner

MakeViews = Callable[..., tuple[Tensor, Tensor | None]]
Losses = Callable[..., dict[str, Tensor]]
Monitor = Callable[[nn.Module, nn.Module], dict[str, float]]


@dataclass(frozen=True)
class Recipe:
    """What training does with images.

    Attributes:
        make_views: a `Multicrop`: (pixels, generator=) -> (Vg, B, 3, g, g), (Vl, B, 3, l, l) or None.
        objective: (projections (V, B, K), step, predictions=, targets=, labels=) -> {"loss": scalar, its parts}
            (`losses.objective.RunObjective`).
        seed: of order, views and dropout.
        shuffle: (number of images, generator=) -> the order of an epoch, (N,) int64.
    """

    make_views: MakeViews
    objective: Losses
    seed: int
    shuffle: Callable[..., Tensor] = torch.randperm


def pretrain(
    learner: Learner,
    images: ImageBatch | PackedSplit,
    settings: Pretrain,
    recipe: Recipe,
    *,
    device: torch.device,
    autocast: torch.autocast,
    checkpoints: Checkpoints,
    watch: Monitor | None = None,
) -> Iterator[Epoch]:
    """Train in place; yield the means of every epoch, those of an interrupted run first.

    Randomness depends on (seed, step) alone, so a resumed run equals an uninterrupted one bit for bit on CPU. SIGTERM
    and Ctrl-C let the running step finish and write a checkpoint. Several processes (`distributed.collectives`) share
    every batch: each takes its part of the images, and weights and losses are those of one process up to rounding
    (dropout and stochastic depth apart, drawn anew on every rank). Rank 0 writes the checkpoints; another number of
    processes can resume.

    Args:
        learner: backbone, projector and optimiser, on `device`.
        images: training split.
        settings: the section `pretrain`: how long, how fast, in what batches; the last partial batch of each epoch is
            left out.
        recipe: views, objective, seed, order.
        device: where to train.
        autocast: precision context.
        checkpoints: where the state of every epoch goes.
        watch: (backbone, projector) -> numbers by name, looked at after every epoch; changes neither. The
            first rank's counts.

    Raises:
        UserError: if there are fewer images than a batch, or a batch cannot be shared equally.
        NonFiniteLossError: naming the step and the images of the batch.
        Interrupted: after a signal, with a state kept from which the same call goes on.
    """
    _check_batch(len(images.labels), settings.batch_size)
    steps_per_epoch = len(images.labels) // settings.batch_size
    num_steps = settings.epochs * steps_per_epoch
    progress = Progress(learner, checkpoints, steps_per_epoch, device)
    yield from progress.history

    with deferred_signals() as request, tqdm(total=num_steps, initial=progress.step, **_bar_style()) as bar:
        reader = BatchReader(images, num_workers=settings.loader.num_workers, device=device)
        run = _Run(learner, images, reader, settings, recipe, device, autocast, progress, request, bar)
        for epoch in range(len(progress.history), settings.epochs):
            run.train_epoch(epoch)
            done = progress.end_epoch(run.rate(progress.step - 1), _watched(watch, learner))
            bar.set_postfix(loss=f"{done.loss:.4f}")
            yield done
            run.end_if_asked(any_rank(request.signum, device))


def _check_batch(num_images: int, batch_size: int) -> None:
    if num_images < batch_size:
        raise UserError(f"pretrain.batch_size must be <= the {num_images} training images, got {batch_size}; lower it")
    if batch_size % world_size():
        raise UserError(
            f"pretrain.batch_size must be a multiple of the {world_size()} processes, got {batch_size}; change either"
        )


@dataclass
class _Run:
    """A training under way."""

    learner: Learner
    images: ImageBatch | PackedSplit
    reader: BatchReader
    settings: Pretrain
    recipe: Recipe
    device: torch.device
    autocast: torch.autocast
    progress: Progress
    request: Request
    bar: tqdm

    def rate(self, step: int) -> float:
        """Return the learning rate of a step."""
        steps_per_epoch, schedule = len(self.images.labels) // self.settings.batch_size, self.settings.schedule
        shape = {
            "num_steps": self.settings.epochs * steps_per_epoch,
            "num_warmup_steps": round(schedule.warmup_epochs * steps_per_epoch),
            "final_frac": schedule.final_lr_frac,
        }
        return self.settings.optimizer.lr * lr_factor(step, **shape)

    def train_epoch(self, epoch: int) -> None:
        """Take the steps of an epoch that are left."""
        num_images, batch_size = len(self.images.labels), self.settings.batch_size
        order = self.recipe.shuffle(num_images, generator=generator(self.recipe.seed, "order", epoch))
        check = NonFiniteDetector(order, batch_size, num_images // batch_size, self.device)
        kept_at, progress = time.monotonic(), self.progress
        for batch in time_batches(self.batches_left(order), progress.tally, self.device):
            step = progress.step
            losses = self.losses(batch, step)
            gradient_norm = self.learner.step(losses["loss"], self.rate(step), progress=step / self.bar.total)
            check.note(progress.tally.add(losses | {"gradient_norm": gradient_norm}), step)
            self.bar.update()
            due = time.monotonic() - kept_at > self.settings.checkpoint.minutes * 60
            asked, due = _agreed(self.request.signum, due, step, self.device)
            if asked or due:
                check.stop_if_not_finite()
                progress.keep()
                self.end_if_asked(asked)
                kept_at = time.monotonic()
        check.stop_if_not_finite()

    def batches_left(self, order: Tensor) -> Iterator[ImageBatch | CropBatch]:
        """Return this rank's part of the epoch's batches that are not done yet."""
        batch_size = self.settings.batch_size
        used, done = len(order) // batch_size * batch_size, self.progress.tally.steps * batch_size
        mine, recipe = share(batch_size), self.recipe
        rest = order[done:used].view(-1, batch_size)[:, mine]
        cut = RandomCut(recipe.make_views, recipe.seed, "crops", self.progress.step, mine.start, batch_size)
        return self.reader(rest.flatten(), rest.shape[1], cut=cut)

    def losses(self, batch: ImageBatch | CropBatch, step: int) -> dict[str, Tensor]:
        """Return the loss of a batch and its parts."""
        how = {"batch_size": self.settings.batch_size, "autocast": self.autocast}
        return step_losses(self.learner, batch, self.recipe, step, **how)

    def end_if_asked(self, signum: int) -> None:
        """Leave the training, if a signal asked for it."""
        if signum:
            done = f"{self.progress.step}/{self.bar.total}"
            raise Interrupted(signum, f"interrupted at step {done}; checkpoint saved, rerun the same command to resume")


def step_losses(
    learner: Learner,
    batch: ImageBatch | CropBatch,
    recipe: Recipe,
    step: int,
    *,
    batch_size: int,
    autocast: torch.autocast,
) -> dict[str, Tensor]:
    """Return the loss and its parts of one step: views, projections, objective.

    Args:
        learner: backbone and projector.
        batch: this rank's part of the step's images.
        recipe: views, objective, seed.
        step: of which views and dropout are drawn.
        batch_size: images of all ranks.
        autocast: precision context.
    """
    seed = recipe.seed
    draws = generator(seed, "views", step, device=batch.labels.device)
    part = {"first": share(batch_size).start, "of": batch_size} if world_size() > 1 else {}
    with torch.no_grad():
        global_views, local_views = views_of(batch, recipe.make_views, generator=draws, **part)
    groups = [global_views] if local_views is None else [global_views, local_views]
    torch.manual_seed(derive_seed(seed, f"dropout of rank {rank()}" if rank() else "dropout", step))
    with autocast:
        projections, predictions = learner.project(groups)
        targets = learner.targets(global_views)
    return recipe.objective(projections, step, predictions=predictions, targets=targets, labels=batch.labels)


def _watched(watch: Monitor | None, learner: Learner) -> dict[str, float]:
    """Let the first rank look at the networks, so that all hear of the same numbers."""
    seen, networks = {}, learner.whole_networks()
    if watch is not None and rank() == 0:
        with alone():
            seen = watch(*networks)
    return from_first_rank(seen)


def _agreed(signum: int, due: bool, step: int, device: torch.device) -> tuple[int, bool]:
    """Return the signal that any rank got, and whether a state is due on any, so that all keep one at the same step.

    Several processes on GPUs ask each other now and then.
    """
    if world_size() > 1 and device.type != "cpu" and step % STEPS_BETWEEN_CHECKS:
        return 0, False
    found = any_rank(2 * signum + due, device)
    return found // 2, bool(found % 2)


def _bar_style() -> dict[str, Any]:
    live = sys.stderr.isatty()
    return {"unit": "step", "dynamic_ncols": live, "mininterval": 0.5 if live else 10, "disable": rank() > 0}


def summary(
    backbone: nn.Module, embed_dim: int, num_images: int, batch_size: int, history: list[dict[str, float]]
) -> dict[str, float]:
    """Return the numbers of a finished run: sizes, images seen, the loss of the last epoch and its parts."""
    last, epochs = history[-1], len(history)
    parts = [name for name in curves(last) if name not in ("loss", "lr")]
    return {
        "num_params": sum(parameter.numel() for parameter in backbone.parameters()),
        "embed_dim": embed_dim,
        "epochs": epochs,
        "num_images": num_images,
        "images_seen": epochs * (num_images // batch_size) * batch_size,
        "train_loss": last["loss"],
        **{name: last[name] for name in parts},
    }
