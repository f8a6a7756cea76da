"""LeJEPA pretraining: a plain loop whose every epoch is a checkpoint.

Legend: B images, V views (Vg global, Vl local), D embedding, K projection.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from tqdm import tqdm

from pipeline.checkpoint import Checkpoints
from pipeline.datasets import EncodedImages, ImageBatch, batches
from pipeline.errors import UserError
from pipeline.learner import Learner, project_views
from pipeline.losses import LeJEPALoss, directions_for_step, lejepa_loss
from pipeline.schedule import lr_factor
from pipeline.seeds import derive_seed, generator
from pipeline.statistics import statistic_by_name

# On a GPU reading the flag waits for the device, so it is read this often; on a CPU at every step.
STEPS_BETWEEN_FINITE_CHECKS = 50


class Epoch(NamedTuple):
    """Means over the steps of one epoch; `lr` is the learning rate of its last step, `health` what was watched then."""

    epoch: int
    loss: float
    pred_loss: float
    sigreg_loss: float
    lr: float
    health: dict[str, float]

    def row(self) -> dict[str, float]:
        """Return the epoch's row of history.csv: its losses, then its health."""
        *losses, health = self
        return dict(zip(self._fields, losses, strict=False)) | health


class NonFiniteLossError(UserError):
    """The loss became NaN or infinite; the message names step and images."""


Objective = Callable[..., LeJEPALoss]
MakeViews = Callable[..., tuple[Tensor, Tensor | None]]
Watch = Callable[[nn.Module, nn.Module], dict[str, float]]


def lejepa_objective(
    *,
    lamb: float,
    num_global: int,
    seed: int,
    proj_dim: int,
    statistic: str,
    num_slices: int,
    t_max: float,
    num_knots: int,
) -> Objective:
    """Return the objective of a run: fresh directions at every step, then the LeJEPA loss.

    Args:
        lamb: weight of SIGReg; the prediction loss has 1 - lamb.
        num_global: Vg, the first views of the projections.
        seed: of the directions.
        proj_dim: K.
        statistic: a name of pipeline.statistics.
        num_slices: S.
        t_max: the characteristic functions are compared on [-t_max, t_max].
        num_knots: T on [0, t_max].
    """
    chosen = None if statistic == "epps_pulley" else statistic_by_name(statistic, t_max=t_max, num_knots=num_knots)

    def objective(projections: Tensor, step: int, **target: Tensor | None) -> LeJEPALoss:
        directions = directions_for_step(seed, step, proj_dim, num_slices, device=projections.device)
        return lejepa_loss(
            projections,
            directions,
            num_global=num_global,
            lamb=lamb,
            t_max=t_max,
            num_knots=num_knots,
            statistic=chosen,
            **target,
        )

    return objective


def pretrain(
    learner: Learner,
    images: ImageBatch | EncodedImages,
    *,
    make_views: MakeViews,
    objective: Objective,
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
    watch: Watch | None = None,
) -> Iterator[Epoch]:
    """Train in place; yield the means of every epoch, those of an interrupted run first.

    Randomness depends on (seed, step) alone, so a resumed run equals an uninterrupted one bit for bit on CPU.

    Args:
        learner: backbone, projector and optimiser, on `device`.
        images: training split.
        make_views: (pixels, aspect, generator=) -> (Vg, B, 3, g, g), (Vl, B, 3, l, l) or None.
        objective: (projections (V, B, K), step, predictions=, centre=) -> loss and its parts.
        seed: of order, views and dropout.
        epochs: passes over the images; the last partial batch of each is left out.
        batch_size: B.
        lr: peak learning rate.
        warmup_epochs: epochs of linear warm-up.
        final_lr_frac: last learning rate as a fraction of the peak.
        device: where to train.
        autocast: precision context.
        num_workers: decoding processes for images that are not in memory.
        checkpoints: where the state of every epoch goes.
        watch: (backbone, projector) -> numbers by name, looked at after every epoch; changes neither.

    Raises:
        UserError: if there are fewer images than a batch.
        NonFiniteLossError: naming the step and the images of the batch.
    """
    num_images = len(images.labels)
    if num_images < batch_size:
        raise UserError(f"pretrain.batch_size must be <= the {num_images} training images, got {batch_size}; lower it")
    steps_per_epoch = num_images // batch_size
    num_steps, num_warmup_steps = epochs * steps_per_epoch, round(warmup_epochs * steps_per_epoch)
    state = checkpoints.load()
    history = [Epoch(*record) for record in state["history"]] if state else []
    if state:
        learner.restore(state)
    yield from history

    with tqdm(total=num_steps, initial=len(history) * steps_per_epoch, **_bar_style()) as bar:
        for epoch in range(len(history), epochs):
            order = torch.randperm(num_images, generator=generator(seed, "order", epoch))
            sums, bad_step = torch.zeros(3, device=device), torch.full((), -1, device=device)
            loader = batches(images, order, batch_size, num_workers=num_workers, device=device, drop_last=True)
            for index, batch in enumerate(loader):
                step = epoch * steps_per_epoch + index
                losses = _losses(learner, batch, make_views, objective, seed, step, autocast)
                factor = lr_factor(
                    step, num_steps=num_steps, num_warmup_steps=num_warmup_steps, final_frac=final_lr_frac
                )
                learner.step(losses.loss, lr * factor)
                parts = torch.stack(losses).detach()
                sums += parts
                bad_step = torch.where((bad_step < 0) & ~parts[0].isfinite(), step, bad_step)
                if device.type == "cpu" or index % STEPS_BETWEEN_FINITE_CHECKS == 0 or index == steps_per_epoch - 1:
                    _stop_if_not_finite(int(bad_step), order, batch_size, steps_per_epoch)
                bar.update()
            health = watch(learner.backbone, learner.projector) if watch else {}
            history.append(Epoch(epoch + 1, *(sums / steps_per_epoch).tolist(), lr * factor, health))
            bar.set_postfix(loss=f"{history[-1].loss:.4f}")
            checkpoints.save({**learner.state(), "history": [tuple(record) for record in history]})
            yield history[-1]


def _losses(
    learner: Learner,
    batch: ImageBatch,
    make_views: MakeViews,
    objective: Objective,
    seed: int,
    step: int,
    autocast: torch.autocast,
) -> LeJEPALoss:
    draws = generator(seed, "views", step, device=batch.pixels.device)
    with torch.no_grad():
        global_views, local_views = make_views(batch.pixels, batch.aspect, generator=draws)
    groups = [global_views] if local_views is None else [global_views, local_views]
    torch.manual_seed(derive_seed(seed, "dropout", step))
    with autocast:
        projections = project_views(learner.backbone, learner.projector, groups)
        predictions, centre = learner.predictions(projections), learner.centre(global_views)
    return objective(projections, step, predictions=predictions, centre=centre)


def _stop_if_not_finite(step: int, order: Tensor, batch_size: int, steps_per_epoch: int) -> None:
    if step < 0:
        return
    epoch, index = divmod(step, steps_per_epoch)
    members = order[index * batch_size : (index + 1) * batch_size].tolist()
    raise NonFiniteLossError(
        f"the loss is not finite at step {step} (epoch {epoch + 1}, batch {index + 1}, training images "
        f"{members[:8]}{' ...' if len(members) > 8 else ''}); lower pretrain.optimizer.lr, lengthen "
        "pretrain.schedule.warmup_epochs, or set pretrain.precision: float32"
    )


def _bar_style() -> dict[str, Any]:
    live = sys.stderr.isatty()
    return {"unit": "step", "dynamic_ncols": live, "mininterval": 0.5 if live else 10}


def summary(
    backbone: nn.Module, embed_dim: int, num_images: int, settings: dict[str, Any], history: list[dict[str, float]]
) -> dict[str, float]:
    """Return the numbers of a finished run: sizes, images seen, and the losses of the last epoch."""
    last, epochs, batch_size = history[-1], settings["epochs"], settings["batch_size"]
    return {
        "num_params": sum(parameter.numel() for parameter in backbone.parameters()),
        "embed_dim": embed_dim,
        "epochs": epochs,
        "num_images": num_images,
        "images_seen": epochs * (num_images // batch_size) * batch_size,
        "train_loss": last["loss"],
        "pred_loss": last["pred_loss"],
        "sigreg_loss": last["sigreg_loss"],
    }
