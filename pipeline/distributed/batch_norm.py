"""BatchNorm over the batch that several processes share, on any device.

torch's SyncBatchNorm wants CUDA; this one has the statistics and the gradient of one process on the concatenated batch,
also on gloo. Every BatchNorm of a module, timm's with their activation included, becomes one in place, so that names of
parameters and buffers stay.
"""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pipeline.distributed.collectives import world_size


def synchronise(module: nn.Module) -> nn.Module:
    """Let every BatchNorm of a module take its statistics over all ranks; without a process group nothing changes."""
    if world_size() > 1:
        for part in module.modules():
            if isinstance(part, _BatchNorm) and not isinstance(part, OverRanks):
                part.__class__ = _over_ranks(type(part))
    return module


class OverRanks:
    """Forward pass of a BatchNorm in training; evaluation is the class's own."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (B, C) or (B, C, H, W)."""
        if not self.training:
            return super().forward(x)
        axes = [axis for axis in range(x.ndim) if axis != 1]
        count = x.numel() // x.shape[1]
        mean, variance, total = _moments(x, axes, count)
        self._follow(mean.detach(), variance.detach() * (total / (total - 1)))
        shape = [-1 if axis == 1 else 1 for axis in range(x.ndim)]
        scale = (variance + self.eps).rsqrt()
        shift = -mean * scale
        if self.affine:
            scale, shift = scale * self.weight, shift * self.weight + self.bias
        out = x * scale.view(shape).to(x.dtype) + shift.view(shape).to(x.dtype)
        # timm's BatchNormAct2d ends in these two.
        return self.act(self.drop(out)) if hasattr(self, "act") else out

    @torch.no_grad()
    def _follow(self, mean: Tensor, variance: Tensor) -> None:
        if not self.track_running_stats:
            return
        self.num_batches_tracked += 1
        weight = 1.0 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), weight)
        self.running_var.lerp_(variance.to(self.running_var.dtype), weight)


@lru_cache
def _over_ranks(kind: type[nn.Module]) -> type[nn.Module]:
    return type(kind.__name__, (OverRanks, kind), {})


def _moments(x: Tensor, axes: list[int], count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return mean and biased variance of each channel over all ranks, and of how many values they are."""
    values = x if x.dtype == torch.float64 else x.float()
    packed = torch.cat([values.sum(axes), values.new_tensor([count])])
    packed = _Sum.apply(packed)
    total = packed[-1].detach()
    mean = packed[:-1] / total
    shape = [-1 if axis == 1 else 1 for axis in range(x.ndim)]
    # Around the mean: the mean of squares minus the squared mean would lose digits.
    variance = _Sum.apply((values - mean.view(shape)).square().sum(axes)) / total
    return mean, variance, total


class _Sum(torch.autograd.Function):
    """Sum over ranks; each rank's gradient is the sum of all ranks' gradients, since all of them see its share."""

    @staticmethod
    def forward(ctx, values: Tensor) -> Tensor:
        out = values.clone()
        dist.all_reduce(out)
        return out

    @staticmethod
    def backward(ctx, grad_output: Tensor) -> Tensor:
        out = grad_output.clone()
        dist.all_reduce(out)
        return out
