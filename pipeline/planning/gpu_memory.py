"""Memory of a training step, computed without running it, for cards that this machine does not have.

A step runs forward on fake tensors, which have sizes and no values; what it keeps for the backward pass is added up at
two sizes of the batch, of which it is a linear function. What is needed for a moment is left out: of it the pass of an
averaged encoder (byol, swa) holds the most (reports/LOG.md, 2026-11-30).

Legend: B images, V views, D embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from pipeline.losses.objective import RunObjective, build_objective
from pipeline.models import backbones
from pipeline.planning.gpu_hours import CARDS, Card
from pipeline.planning.inventory import Task
from pipeline.planning.step_time import BYTES_A_PARAM, Measured, Speed, an_image, kept_for_backward
from pipeline.schema.pretrain import Pretrain
from pipeline.training.learner import Learner, build_learner

USABLE_FRAC = 0.9  # of a card: the rest is CUDA's own, and what is free in pieces; assumed, not measured
SIZES = 2, 4  # images of the steps that are looked at
MOST_CARDS = 64


class Memory(NamedTuple):
    """Bytes that a training takes.

    fixed: whatever the batch: weights, gradients, moments, averages, and weights in bfloat16. an_image: of the whole
    batch: views, projections, loss. a_group: what the backbone keeps of an image's views of one size, for each size.
    """

    fixed: float
    an_image: float
    a_group: tuple[float, ...]
    has_batchnorm: bool

    def peak(self, batch_size: int, micro_batch_size: int | None = None) -> float:
        """Return the bytes at the end of the forward pass, with gradients of the parameters on top.

        Of micro-batches one pass of views of one size is held alone (`models.projector.project_views`): an upper bound,
        since the pass is computed again amid the backward pass and so is counted with as many gradients of its own.
        """
        if micro_batch_size is None:
            return self.fixed + batch_size * (self.an_image + sum(self.a_group))
        return self.fixed + batch_size * self.an_image + 2 * micro_batch_size * max(self.a_group)

    def layout(self, card: Card, batch_size: int) -> str:
        """Say how a batch fits onto a card: at once, in the largest micro-batches that do, or over several cards."""
        most = USABLE_FRAC * card.memory_gb * 1e9
        if self.peak(batch_size) <= most:
            return "at once"
        halves = [] if self.has_batchnorm else [2**power for power in range(batch_size.bit_length())]
        fitting = [size for size in halves if size < batch_size and self.peak(batch_size, size) <= most]
        if fitting:
            return f"micro_batch_size {fitting[-1]}"
        cards = [2**power for power in range(1, MOST_CARDS.bit_length())]
        enough = [number for number in cards if self.peak(-(-batch_size // number)) <= most]
        return f"{enough[0]} cards" if enough else "not at all"


def training_memory(found: Speed, settings: Pretrain, *, bfloat16: bool) -> Memory:
    """Compute what a training takes.

    Args:
        found: the backbone's arguments and D.
        settings: of the training; its layout is left out.
        bfloat16: under autocast, as on a GPU, or in float32.
    """
    views, autocast = settings.views, torch.autocast("cpu", torch.bfloat16, enabled=bfloat16)
    groups = [(views.num_global, views.global_px), (views.num_local, views.local_px)]
    with torch.device("meta"):
        backbone = backbones.create_backbone(found.backbone, found.arguments).train()
    with FakeTensorMode(allow_non_fake_inputs=True), autocast:
        backbone.to_empty(device="cpu")
        kept = [_kept(partial(_embed, backbone, *group), [backbone]) for group in groups if group[0]]
    run = {"lamb": 0.05, "num_global": views.num_global, "seed": 0}
    objective = build_objective(settings.objective, settings.objective_settings(), **run)
    what = {"objective": objective.objective, "num_classes": 2}
    around = build_learner(nn.Identity(), found.embed_dim, settings, torch.device("cpu"), **what)
    heads = [module for module in (around.projector, around.predictor) if module is not None]
    with autocast:
        loss = _kept(partial(_lose, around, objective, (views.num_global + views.num_local, found.embed_dim)), heads)
    trained = found.num_params + sum(parameter.numel() for head in heads for parameter in head.parameters())
    averaged = 0 if around.average is None else trained
    fixed = BYTES_A_PARAM * trained + 4 * averaged + max(constant for constant, _ in kept) + loss[0]
    pixels = sum(4 * num_views * 3 * size_px**2 for num_views, size_px in groups)
    has_batchnorm = any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in backbone.modules())
    return Memory(fixed, pixels + loss[1], tuple(slope for _, slope in kept), has_batchnorm)


def _embed(backbone: nn.Module, num_views: int, size_px: int, num_images: int) -> Tensor:
    return backbone(torch.empty(num_images * num_views, 3, size_px, size_px))


def _lose(learner: Learner, objective: RunObjective, shape: tuple[int, int], num_images: int) -> Tensor:
    """Project random embeddings of (V, D) for each image and take the loss."""
    num_views, dim = shape
    projections = learner.projector(torch.randn(num_views * num_images, dim, requires_grad=True))
    parts = {"predictions": None, "targets": None}
    if learner.predictor is not None:
        parts["predictions"] = learner.predictor(projections).float().unflatten(0, (num_views, num_images))
    shaped = projections.float().unflatten(0, (num_views, num_images))
    if learner.average is not None:
        parts["targets"] = shaped[: objective.num_global].detach()
    return objective(shaped, 0, labels=torch.zeros(num_images, dtype=torch.int64), **parts)["loss"]


def _kept(run: Callable[[int], Tensor], modules: list[nn.Module]) -> tuple[float, float]:
    """Return the bytes kept for the backward pass without images, and for each image."""
    few, more = (kept_for_backward(partial(run, num_images), modules)[0] for num_images in SIZES)
    an_image = (more - few) / (SIZES[1] - SIZES[0])
    return few - SIZES[0] * an_image, an_image


def gpu_memory_text(tasks: Iterable[Task], measured: Measured) -> str:
    """Say what the largest of some pretrainings that are left takes, and how it fits onto the named cards."""
    left = [task for task in tasks if task.owner and not task.pretrain_done and task.shape in measured.speeds]

    def roughly(task: Task) -> float:
        speed, settings = measured.speeds[task.shape], task.pretrain
        return settings.batch_size * an_image(speed.num_bytes, settings.views) + BYTES_A_PARAM * speed.num_params

    largest = max(left, key=roughly)
    settings, bfloat16 = largest.pretrain, largest.pretrain.precision != "float32"
    memory = training_memory(measured.speeds[largest.shape], settings, bfloat16=bfloat16)
    told = f"{largest.backbone}, {settings.batch_size} images in {'bfloat16' if bfloat16 else 'float32'}"
    fits = [f"{card.name} ({card.memory_gb} GB) {memory.layout(card, settings.batch_size)}" for card in CARDS]
    return f"{told}, take about {memory.peak(settings.batch_size) / 1e9:,.0f} GB; {', '.join(fits)}"
