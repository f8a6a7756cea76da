"""BatchNorm over the batch that several processes share, on any device.

torch's SyncBatchNorm refuses the CPU (2.15); this one has the statistics and the gradient of one process on the
concatenated batch, also on gloo.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pipeline.core.distributed.collectives import world_size


def synchronise(module: nn.Module) -> nn.Module:
    """Let every BatchNorm below a module take its statistics over all ranks; without a process group nothing changes.

    Parameters and buffers stay the same objects under the same names; timm's BatchNorm keeps its activation.
    """
    for parent in list(module.modules()) if world_size() > 1 else []:
        for name, child in parent.named_children():
            if isinstance(child, _BatchNorm) and not isinstance(child, SyncBatchNorm):
                setattr(parent, name, SyncBatchNorm(child))
    return module


class SyncBatchNorm(_BatchNorm):
    """A BatchNorm that normalises over all ranks in training; timm's `drop` and `act` follow it."""

    def __init__(self, local: _BatchNorm) -> None:
        """Take over parameters, buffers and settings."""
        super().__init__(local.num_features, local.eps, local.momentum, local.affine, local.track_running_stats)
        for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
            setattr(self, name, getattr(local, name))
        self.drop = getattr(local, "drop", nn.Identity())
        self.act = getattr(local, "act", nn.Identity())
        self.train(local.training)

    def _check_input_dim(self, input: Tensor) -> None:
        """Take (B, C) and (B, C, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (B, C) or (B, C, H, W)."""
        if not self.training:
            return self.act(self.drop(super().forward(x)))
        mean, variance, total = _moments(x)
        if self.track_running_stats:
            self._follow(mean.detach(), variance.detach() * (total / (total - 1)))
        shape = [-1 if axis == 1 else 1 for axis in range(x.ndim)]
        scale = (variance + self.eps).rsqrt()
        shift = -mean * scale
        if self.affine:
            scale, shift = scale * self.weight, shift * self.weight + self.bias
        return self.act(self.drop(x * scale.view(shape).to(x.dtype) + shift.view(shape).to(x.dtype)))

    @torch.no_grad()
    def _follow(self, mean: Tensor, variance: Tensor) -> None:
        self.num_batches_tracked += 1
        weight = 1.0 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), weight)
        self.running_var.lerp_(variance.to(self.running_var.dtype), weight)


def _moments(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return mean and biased variance of each channel over all ranks, and of how many values they are."""
    axes = [axis for axis in range(x.ndim) if axis != 1]
    values = x if x.dtype == torch.float64 else x.float()
    packed = _Sum.apply(torch.cat([values.sum(axes), values.new_tensor([x.numel() // x.shape[1]])]))
    total = packed[-1].detach()
    mean = packed[:-1] / total
    # Around the mean: the mean of squares minus the squared mean would lose digits.
    around = values - mean.view([-1 if axis == 1 else 1 for axis in range(x.ndim)])
    return mean, _Sum.apply(around.square().sum(axes)) / total, total


class _Sum(torch.autograd.Function):
    """Sum over ranks; each rank's gradient is the sum of all ranks' gradients, since all of them see its share."""

    @staticmethod
    def forward(ctx, values: Tensor) -> Tensor:
        out = values.clone()
        dist.all_reduce(out)
        return out

    @staticmethod
    def backward(ctx, grad_output: Tensor) -> Tensor:
        return _Sum.forward(ctx, grad_output)
