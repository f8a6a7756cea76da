"""Pretraining: a plain loop that can stop at any step and resume there.

Legend: B images, V views (Vg global, Vl local), D embedding, K projection.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from pipeline.core.checkpoints import Checkpoints
from pipeline.core.results import curves
from pipeline.core.schedule import lr_factor
from pipeline.core.seeds import derive_seed, generator
from pipeline.data.loader import batches
from pipeline.data.packed import ImageBatch, PackedSplit
from pipeline.distributed.collectives import alone, any_rank, from_first_rank, rank, share, world_size
from pipeline.runtime.errors import Interrupted, UserError
from pipeline.runtime.signals import deferred_signals
from pipeline.training.epochs import STEPS_BETWEEN_CHECKS, Epoch, NonFiniteDetector, Progress, time_batches
from pipeline.training.learner import Learner

MakeViews = Callable[..., tuple[Tensor, Tensor | None]]
Losses = Callable[..., dict[str, Tensor]]
Monitor = Callable[[nn.Module, nn.Module], dict[str, float]]


def schedule_arguments(settings: dict[str, Any]) -> dict[str, float]:
    """Return the arguments of `pretrain` that say how long and how fast, from the section pretrain."""
    how_long = {"epochs": settings["epochs"], "batch_size": settings["batch_size"]}
    return {**how_long, "lr": settings["optimizer"]["lr"], **settings["schedule"]}


def pretrain(
    learner: Learner,
    images: ImageBatch | PackedSplit,
    *,
    make_views: MakeViews,
    objective: Losses,
    seed: int,
    epochs: int,
    batch_size: int,
    lr: float,
    warmup_epochs: float,
    final_lr_frac: float,
    device: torch.device,
    autocast: torch.autocast,
    num_workers: int,
    checkpoints: Checkpoints,
    checkpoint_minutes: float = math.inf,
    watch: Monitor | None = None,
    shuffle: Callable[..., Tensor] = torch.randperm,
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
        make_views: (pixels, aspect, generator=) -> (Vg, B, 3, g, g), (Vl, B, 3, l, l) or None.
        objective: (projections (V, B, K), step, predictions=, targets=, labels=) -> {"loss": scalar, its parts}
            (`losses.objective.RunObjective`).
        seed: of order, views and dropout.
        epochs: passes over the images; the last partial batch of each is left out.
        batch_size: B, over all processes.
        lr: peak learning rate.
        warmup_epochs: epochs of linear warm-up.
        final_lr_frac: last learning rate as a fraction of the peak.
        device: where to train.
        autocast: precision context.
        num_workers: decoding processes for images that are not in memory.
        checkpoints: where the state of every epoch goes.
        checkpoint_minutes: how often a state is kept within an epoch.
        watch: (backbone, projector) -> numbers by name, looked at after every epoch; changes neither.
        shuffle: (number of images, generator=) -> the order of an epoch, (N,) int64.

    Raises:
        UserError: if there are fewer images than a batch, or a batch cannot be shared equally.
        NonFiniteLossError: naming the step and the images of the batch.
        Interrupted: after a signal, with a state kept from which the same call goes on.
    """
    num_images = len(images.labels)
    _check_batch(num_images, batch_size)
    steps_per_epoch, mine = num_images // batch_size, share(batch_size)
    num_steps, num_warmup_steps = epochs * steps_per_epoch, round(warmup_epochs * steps_per_epoch)

    def rate(step: int) -> float:
        shape = {"num_steps": num_steps, "num_warmup_steps": num_warmup_steps, "final_frac": final_lr_frac}
        return lr * lr_factor(step, **shape)

    progress = Progress(learner, checkpoints, steps_per_epoch, device)
    yield from progress.history

    with deferred_signals() as request, tqdm(total=num_steps, initial=progress.step, **_bar_style()) as bar:
        for epoch in range(len(progress.history), epochs):
            tally, order = progress.tally, shuffle(num_images, generator=generator(seed, "order", epoch))
            rest = order[tally.steps * batch_size : steps_per_epoch * batch_size].view(-1, batch_size)[:, mine]
            loader = batches(images, rest.flatten(), rest.shape[1], num_workers=num_workers, device=device)
            check = NonFiniteDetector(order, batch_size, steps_per_epoch, device)
            kept_at = time.monotonic()
            for batch in time_batches(loader, tally, device):
                step = progress.step
                losses = _losses(learner, batch, make_views, objective, seed, step, autocast, batch_size)
                gradient_norm = learner.step(losses["loss"], rate(step), progress=step / num_steps)
                check.note(tally.add(losses | {"gradient_norm": gradient_norm}), step)
                bar.update()
                asked = _agreed(request.signum, step, device)
                if asked or time.monotonic() - kept_at > checkpoint_minutes * 60:
                    check.stop_if_not_finite()
                    progress.keep()
                    _end_if_asked(asked, step + 1, num_steps)
                    kept_at = time.monotonic()
            check.stop_if_not_finite()
            done = progress.end_epoch(rate(progress.step - 1), _watched(watch, learner))
            bar.set_postfix(loss=f"{done.loss:.4f}")
            yield done
            _end_if_asked(any_rank(request.signum, device), progress.step, num_steps)


def _check_batch(num_images: int, batch_size: int) -> None:
    if num_images < batch_size:
        raise UserError(f"pretrain.batch_size must be <= the {num_images} training images, got {batch_size}; lower it")
    if batch_size % world_size():
        raise UserError(
            f"pretrain.batch_size must be a multiple of the {world_size()} processes, got {batch_size}; change either"
        )


def _losses(
    learner: Learner,
    batch: ImageBatch,
    make_views: MakeViews,
    objective: Losses,
    seed: int,
    step: int,
    autocast: torch.autocast,
    batch_size: int,
) -> dict[str, Tensor]:
    draws = generator(seed, "views", step, device=batch.pixels.device)
    part = {"first": share(batch_size).start, "of": batch_size} if world_size() > 1 else {}
    with torch.no_grad():
        global_views, local_views = make_views(batch.pixels, batch.aspect, generator=draws, **part)
    groups = [global_views] if local_views is None else [global_views, local_views]
    torch.manual_seed(derive_seed(seed, f"dropout of rank {rank()}" if rank() else "dropout", step))
    with autocast:
        projections = learner.project(groups)
        predictions, targets = learner.predictions(projections), learner.targets(global_views)
    return objective(projections, step, predictions=predictions, targets=targets, labels=batch.labels)


def _watched(watch: Monitor | None, learner: Learner) -> dict[str, float]:
    """Let the first rank look at the networks, so that all hear of the same numbers."""
    if watch is None:
        return {}
    seen = None
    if rank() == 0:
        with alone():
            seen = watch(learner.backbone, learner.projector)
    return from_first_rank(seen)


def _agreed(signum: int, step: int, device: torch.device) -> int:
    """Return the signal that any rank got, so that all end at the same step; on a GPU asked now and then."""
    if world_size() > 1 and device.type != "cpu" and step % STEPS_BETWEEN_CHECKS:
        return 0
    return any_rank(signum, device)


def _end_if_asked(signum: int, step: int, num_steps: int) -> None:
    if signum:
        raise Interrupted(
            signum, f"interrupted at step {step}/{num_steps}; checkpoint saved, rerun the same command to resume"
        )


def _bar_style() -> dict[str, Any]:
    live = sys.stderr.isatty()
    return {"unit": "step", "dynamic_ncols": live, "mininterval": 0.5 if live else 10, "disable": rank() > 0}


def summary(
    backbone: nn.Module, embed_dim: int, num_images: int, settings: dict[str, Any], history: list[dict[str, float]]
) -> dict[str, float]:
    """Return the numbers of a finished run: sizes, images seen, the loss of the last epoch and its parts."""
    last, epochs, batch_size = history[-1], len(history), settings["batch_size"]
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
