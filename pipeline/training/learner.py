"""Trainable state: backbone, projector, their optimiser, a head on the projections and an averaged encoder.

Legend: B images, M images of several views, V views (Vg global), D embedding, K projection, C outputs of the head.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm
from torch.optim.swa_utils import AveragedModel

from pipeline.core.distributed.batch_norm import synchronise
from pipeline.core.distributed.collectives import data_parallel, rank, world_size
from pipeline.core.distributed.sharding import is_sharded, load_whole_state, own_part, shard, whole, whole_state
from pipeline.losses.projected import Objective
from pipeline.models import backbones
from pipeline.models.projector import make_projector, project_views
from pipeline.models.weights import save_weights
from pipeline.schema.pretrain import Pretrain
from pipeline.schema.resolved import PretrainRun


class _Networks(nn.Module):
    """All that is trained as one module: one forward pass embeds the views of every size and projects them."""

    def __init__(
        self, backbone: nn.Module, projector: nn.Module, predictor: nn.Module | None, micro_batch_size: int | None
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.projector = projector
        self.predictor = predictor
        self.micro_batch_size = micro_batch_size

    def forward(self, views: list[Tensor]) -> tuple[Tensor, Tensor | None]:
        projections = project_views(self.backbone, self.projector, views, micro_batch_size=self.micro_batch_size)
        if self.predictor is None:
            return projections, None
        flat: Tensor = self.predictor(projections.flatten(0, 1))
        exact = flat if flat.dtype == torch.float64 else flat.float()
        return projections, exact.unflatten(0, projections.shape[:2])


@dataclass
class Learner:
    """What training changes: backbone (M, 3, H, W) -> (M, D), projector (M, D) -> (M, K) and their optimiser.

    Some objectives need a predictor (M, K) -> (M, C), and the running average of (backbone, projector) that makes the
    targets, whose decay follows from the part of the run that is done. For LeJEPA both are heuristics that the paper
    finds needless (Table 4), the average with one decay. `micro_batch_size` is how many images' views of one size pass
    the backbone at a time; None: all of them. `skeletons` of a sharded learner are backbone and projector with any
    weights, on the CPU of rank 0.
    """

    backbone: nn.Module
    projector: nn.Module
    optimizer: torch.optim.Optimizer
    predictor: nn.Module | None = None
    average: AveragedModel | None = None
    micro_batch_size: int | None = None
    decay: Callable[[float], float] = lambda _: 0.0
    skeletons: tuple[nn.Module, nn.Module] | None = None

    def __post_init__(self) -> None:
        """Share gradients with the other processes, if there are any."""
        networks = _Networks(self.backbone, self.projector, self.predictor, self.micro_batch_size)
        self._sharded = is_sharded(networks)  # then its blocks share gradients
        self._networks = networks if self._sharded else data_parallel(networks)

    def _parts(self) -> dict[str, Any]:
        named = {name: getattr(self, name) for name in ("backbone", "projector", "optimizer", "predictor", "average")}
        return {name: part for name, part in named.items() if part is not None}

    def state(self) -> dict[str, Any]:
        """Return all that a resumed run needs; every random draw follows from (seed, step).

        All ranks call it; that of rank 0 is whole.
        """
        return {name: whole_state(part) if self._sharded else part.state_dict() for name, part in self._parts().items()}

    def restore(self, state: dict[str, Any]) -> None:
        """Take over a state, of whatever number of processes."""
        for name, part in self._parts().items():
            if self._sharded:
                load_whole_state(part, state[name])
            else:
                part.load_state_dict(state[name])

    def whole_networks(self) -> tuple[nn.Module, nn.Module]:
        """Return backbone and projector to be used by one rank alone; all ranks call it.

        Those that are trained, or of sharded ones a copy with whole weights, on rank 0.
        """
        trained = self.backbone, self.projector
        states = [whole_state(module) for module in trained if self._sharded]
        if self.skeletons is None:
            return trained
        copies = copy.deepcopy(self.skeletons)
        for module, state in zip(copies, states, strict=True):
            module.load_state_dict(state)
            module.to(own_part(next(self.backbone.parameters())).device)
        return copies

    def step(self, loss: Tensor, lr: float, *, progress: float = 0.0) -> Tensor:
        """Take one optimiser step along the gradient of the loss; return the gradient's norm, a scalar.

        `progress` is steps done over steps of the run, on which the decay of the average may depend.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.zero_grad()
        loss.backward()
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        norm = get_total_norm([parameter.grad for parameter in parameters if parameter.grad is not None])
        self.optimizer.step()
        if self.average is not None:
            self._move_average(self.decay(progress))
        return whole(norm)

    @torch.no_grad()
    def _move_average(self, decay: float) -> None:
        """Update the average; `AveragedModel.update_parameters` would send its counter to a GPU and wait for it."""
        average, trained = self.average, nn.ModuleList([self.backbone, self.projector])
        weight = 1 - decay if average.n_averaged else 1.0  # the first update copies
        kept_and_new = [[own_part(each) for each in module.parameters()] for module in (average.module, trained)]
        torch._foreach_lerp_(*kept_and_new, weight)
        for kept, new in zip(average.module.buffers(), trained.buffers(), strict=True):
            kept.copy_(new)
        average.n_averaged += 1

    def project(self, views: list[Tensor]) -> tuple[Tensor, Tensor | None]:
        """Return the projections (V, B, K) of views and the head's outputs (V, B, C), or None without one.

        Once a step: several processes share the gradients of one pass.
        """
        projections, predictions = self._networks(views)
        return projections, predictions

    @torch.no_grad()
    def targets(self, global_views: Tensor) -> Tensor | None:
        """Return the projections (Vg, B, K) of the global views by the averaged encoder, or None without one."""
        if self.average is None:
            return None
        backbone, projector = self.average.module
        return project_views(backbone, projector, [global_views], micro_batch_size=self.micro_batch_size)


def build_learner(
    backbone: nn.Module,
    embed_dim: int,
    settings: Pretrain,
    device: torch.device,
    *,
    objective: Objective | None = None,
    num_classes: int = 0,
) -> Learner:
    """Build what the section `pretrain` and its objective ask for around a backbone (M, 3, H, W) -> (M, D = embed_dim).

    The projector and the predictor are drawn from torch's global generator, in this order: after
    `backbones.initial_backbone` a run's seed decides all of them.
    """
    projector, predictor = make_projector(embed_dim, **settings.projector.model_dump()), None
    if settings.predictor.enabled:
        proj_dim, hidden_dims = settings.projector.proj_dim, [settings.predictor.hidden_dim]
        predictor = make_projector(proj_dim, hidden_dims=hidden_dims, proj_dim=proj_dim)
    decay = None
    if objective is not None and objective.needs_head:
        predictor = objective.head(settings.projector.proj_dim, num_classes)
    if objective is not None and objective.target_decay(0.0) is not None:
        decay = objective.target_decay
    return make_learner(backbone, projector, settings, device, predictor=predictor, target_decay=decay)


def make_learner(
    backbone: nn.Module,
    projector: nn.Module,
    settings: Pretrain,
    device: torch.device,
    *,
    predictor: nn.Module | None = None,
    target_decay: Callable[[float], float] | None = None,
) -> Learner:
    """Move the modules to the device and give them AdamW; biases, norms and what timm exempts do not decay.

    Args:
        backbone: (M, 3, H, W) -> (M, D).
        projector: (M, D) -> (M, K).
        settings: the section `pretrain`. `channels_last` is the memory format of the backbone's weights; its
            convolutions then make all maps so, from the views on: the same numbers up to rounding (faster or slower:
            benchmarks.step). `compile` compiles the backbone in place, so that the names of its state stay, once for
            each view size.
        device: where to train.
        predictor: (M, K) -> (M, C), applied before views are compared with the targets.
        target_decay: of the average of the weights that makes the targets, from the part of the run that is done; that
            average starts as a copy. None: the average of `swa`, if it is enabled.
    """
    layout, optimizer, swa = settings.layout, settings.optimizer, settings.swa
    sharded = layout.sharded and world_size() > 1
    if settings.channels_last and not sharded:  # FSDP2 takes contiguous weights alone
        backbone.to(memory_format=torch.channels_last)
    if layout.checkpoint_activations:
        backbone.set_grad_checkpointing(True)
    if settings.compile:
        backbone.compile(dynamic=False)
    modules = [backbone, projector] if predictor is None else [backbone, projector, predictor]
    for module in modules:
        module.to(device).train()
        if settings.sync_batchnorm:
            synchronise(module)
    average = None
    if swa.enabled:
        average = AveragedModel(nn.ModuleList([backbone, projector]))
    if target_decay is not None:
        average = AveragedModel(nn.ModuleList([backbone, projector]))
        average.n_averaged.fill_(1)  # else the first update would copy the weights
    skeletons = None
    if sharded:
        if rank() == 0:
            skeletons = copy.deepcopy(backbone).cpu(), copy.deepcopy(projector).cpu()
        shard([*modules, *(average.module if average else [])], device)
    groups = backbones.weight_decay_groups(modules, optimizer.weight_decay)
    adamw = torch.optim.AdamW(groups, lr=optimizer.lr, betas=tuple(optimizer.betas), fused=True)
    decay = target_decay or (lambda _: swa.decay)
    return Learner(backbone, projector, adamw, predictor, average, layout.micro_batch_size, decay, skeletons)


def save_networks(folder: Path, learner: Learner, run: PretrainRun) -> None:
    """Write backbone.safetensors and projector.safetensors with what is needed to build them again.

    All ranks call it; rank 0 writes.
    """
    backbone, projector = learner.whole_networks()
    if rank():
        return
    views = run.pretrain.views
    seen = {"img_size_px": views.global_px, "mean": views.mean, "std": views.std}
    described = {"backbone": run.backbone, "kwargs": run.backbone_kwargs, **seen}
    save_weights(folder / "backbone.safetensors", backbone, described)
    described = {"width": run.embed_dim, **run.pretrain.projector.model_dump()}
    save_weights(folder / "projector.safetensors", projector, described)
