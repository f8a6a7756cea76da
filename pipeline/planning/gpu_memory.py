"""Memory of a training step, computed without running it, for cards that this machine does not have.

A step runs forward on fake tensors, which have sizes and no values; what it keeps for the backward pass is added up at
two sizes of the batch, of which it is a linear function. What is needed for a moment is left out: of it the pass of an
averaged encoder (byol, swa) holds the most (reports/LOG.md, 2026-11-30).

Legend: B images, V views, D embedding.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from pipeline.core.distributed import sharding
from pipeline.losses.objective import RunObjective, build_objective
from pipeline.models import backbones
from pipeline.planning.gpu_hours import CARDS, Card
from pipeline.planning.inventory import Task
from pipeline.planning.step_time import BYTES_A_PARAM, Measured, Speed, an_image, kept_for_backward
from pipeline.schema.pretrain import Layout, Pretrain
from pipeline.training.learner import Learner, build_learner

USABLE_FRAC = 0.9  # of a card: the rest is CUDA's own, and what is free in pieces; assumed, not measured
SIZES = 2, 4  # images of the steps that are looked at
MOST_CARDS = 64
AT_ONCE = Layout()
BLOCK = re.compile(r"(.*\.)?blocks\.\d+")  # timm's name of what it computes again


class Memory(NamedTuple):
    """Bytes that a training takes.

    fixed: whatever the batch: weights, gradients, moments, averages, and weights in bfloat16. an_image: of the whole
    batch: views, projections, loss. a_group: what the backbone keeps of an image's views of one size, for each size;
    again: what it keeps if it computes blocks again, and what the largest of them then takes, for each size; () if it
    cannot. state: of `fixed`, what sharding divides. a_block: weights of the largest block.
    """

    fixed: float
    an_image: float
    a_group: tuple[float, ...]
    has_batchnorm: bool
    again: tuple[tuple[float, float], ...] = ()
    state: float = 0.0
    a_block: float = 0.0

    def peak(self, batch_size: int, layout: Layout = AT_ONCE) -> float:
        """Return the bytes of each card at the end of the forward pass, with gradients of the parameters on top.

        Of micro-batches one pass of views of one size is held alone (`models.projector.project_views`): an upper bound,
        since the pass is computed again amid the backward pass and so is counted with as many gradients of its own.
        """
        num_images, size = -(-batch_size // layout.processes), layout.micro_batch_size
        fixed = self.fixed + num_images * self.an_image
        if layout.sharded and layout.processes > 1:  # whole at a time: a block, the next one, and a gradient
            fixed += self.state / layout.processes - self.state + 3 * self.a_block
        groups = self.again if layout.checkpoint_activations else tuple((kept, 0.0) for kept in self.a_group)
        if size is None or size >= num_images:
            return fixed + num_images * (sum(kept for kept, _ in groups) + max(block for _, block in groups))
        return fixed + 2 * size * max(kept + block for kept, block in groups)

    def layout(self, card: Card, batch_size: int) -> str:
        """Say how a batch fits onto a card: at once, in parts as large as fit, or over as few cards as it takes."""
        most = USABLE_FRAC * card.memory_gb * 1e9
        found = next((one for one in self._layouts(batch_size) if self.peak(batch_size, one) <= most), None)
        if found is None:
            return "not at all"
        parts = [f"{found.processes} cards"] if found.processes > 1 else []
        parts += [f"micro_batch_size {found.micro_batch_size}"] if found.micro_batch_size else []
        parts += [name for name in ("sharded", "checkpoint_activations") if getattr(found, name)]
        return " + ".join(parts) or "at once"

    def _layouts(self, batch_size: int) -> Iterator[Layout]:
        """Return what can be tried, from the fastest on."""
        choices = [False, True] if self.again else [False]
        for again in choices:
            yield Layout(checkpoint_activations=again)
        halves = [] if self.has_batchnorm else [2**power for power in reversed(range(batch_size.bit_length()))]
        for again, size in product(choices, halves):
            if size < batch_size:
                yield Layout(micro_batch_size=size, checkpoint_activations=again)
        cards = [2**power for power in range(1, MOST_CARDS.bit_length())]
        for sharded, number, again in product([False, True], cards, choices):
            yield Layout(processes=number, sharded=sharded, checkpoint_activations=again)


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
        shown = [partial(_embed, backbone, *group) for group in groups if group[0]]
        kept = [_kept(embed, [backbone]) for embed in shown]
        again = () if backbones.no_recomputing(backbone) else tuple(_kept_again(backbone, embed) for embed in shown)
    run = {"lamb": 0.05, "num_global": views.num_global, "seed": 0}
    objective = build_objective(settings.objective, settings.objective_settings(), **run)
    what = {"objective": objective.objective, "num_classes": 2}
    plain = settings.model_copy(update={"layout": AT_ONCE})
    around = build_learner(nn.Identity(), found.embed_dim, plain, torch.device("cpu"), **what)
    heads = [module for module in (around.projector, around.predictor) if module is not None]
    with autocast:
        loss = _kept(partial(_lose, around, objective, (views.num_global + views.num_local, found.embed_dim)), heads)
    trained = found.num_params + sum(parameter.numel() for head in heads for parameter in head.parameters())
    averaged = 0 if around.average is None else trained
    state = BYTES_A_PARAM * trained + 4 * averaged
    fixed = state + max(constant for constant, _ in kept) + loss[0]
    blocks = [sum(4 * each.numel() for each in block.parameters()) for block in sharding.blocks(backbone)]
    pixels = sum(4 * num_views * 3 * size_px**2 for num_views, size_px in groups)
    return Memory(
        fixed,
        pixels + loss[1],
        tuple(slope for _, slope in kept),
        backbones.has_batchnorm(backbone),
        again=again,
        state=state,
        a_block=max(blocks, default=4 * found.num_params),
    )


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
    return _linear(lambda num_images: kept_for_backward(partial(run, num_images), modules)[0])


def _linear(num_bytes: Callable[[int], float]) -> tuple[float, float]:
    few, more = map(num_bytes, SIZES)
    an_image = (more - few) / (SIZES[1] - SIZES[0])
    return few - SIZES[0] * an_image, an_image


def _kept_again(backbone: nn.Module, embed: Callable[[int], Tensor]) -> tuple[float, float]:
    """Return the bytes an image that a backbone keeps beside its blocks' inside, and those of the largest block.

    Where the blocks have other names all of the backbone is taken for one.
    """
    backbone.set_grad_checkpointing(True)
    _, kept = _kept(embed, [backbone])
    backbone.set_grad_checkpointing(False)
    blocks = [module for name, module in backbone.named_modules() if BLOCK.fullmatch(name)] or [backbone]
    found: dict[tuple, int] = {}

    def look(block: nn.Module, args: tuple, kwargs: dict) -> None:
        key = args[0].shape, sum(parameter.numel() for parameter in block.parameters())  # most blocks are alike
        if key not in found:
            found[key] = kept_for_backward(lambda: block.forward(*args, **kwargs), [block])[0]

    def largest(num_images: int) -> int:
        found.clear()
        embed(num_images)
        return max(found.values())

    hooks = [block.register_forward_pre_hook(look, with_kwargs=True) for block in blocks]
    _, block = _linear(largest)
    for hook in hooks:
        hook.remove()
    return kept, block


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
    told += f", take about {memory.peak(settings.batch_size) / 1e9:,.0f} GB"
    if (layout := settings.layout) != AT_ONCE and (memory.again or not layout.checkpoint_activations):
        told += f" ({memory.peak(settings.batch_size, layout) / 1e9:,.0f} GB a card as pretrain.layout has it)"
    return f"{told}; {', '.join(fits)}"
