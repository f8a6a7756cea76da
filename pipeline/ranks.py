"""The batch that several processes share: means and samples over all ranks, differentiable.

Gradient convention, the same everywhere: a rank gets world size * d(value)/d(its own samples), as it would from a mean
over its local batch. DistributedDataParallel averages parameter gradients over ranks, which makes that average the
gradient of one process on the concatenated batch. So under DDP the caller does nothing; without DDP it averages
parameter gradients over ranks. No backward pass communicates: every rank must give the value the same weight in its
loss, which DDP assumes as well. Ranks may hold different numbers of samples.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


def world_size() -> int:
    """Count the processes that share the batch: 1 without an initialised process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def sum_over_ranks(sums: Tensor, num_samples: int) -> Tensor:
    """Sum over all ranks, in place; not differentiable.

    Args:
        sums: float64, the same shape on every rank.
        num_samples: how many samples this rank's sums are made of.

    Returns:
        The number of samples of all ranks, a scalar left on the device, so that the host does not wait for it.
    """
    packed = torch.cat([sums.flatten(), sums.new_tensor([num_samples])])
    dist.all_reduce(packed)
    sums.copy_(packed[:-1].view_as(sums))
    return packed[-1]


def mean_over_ranks(values: Tensor) -> Tensor:
    """Mean of all elements of `values` over all ranks, differentiable; a plain mean without a process group.

    Args:
        values: floating, any shape; the number of elements may differ between ranks.

    Returns:
        A scalar, equal on all ranks.
    """
    return values.mean() if world_size() == 1 else _Mean.apply(values)


def gather_samples(samples: Tensor) -> Tensor:
    """Concatenate the samples of all ranks in the order of ranks, differentiable; `samples` itself without a group.

    Args:
        samples: (..., N, K); N may differ between ranks, every other axis must not.

    Returns:
        (..., sum of all N, K), equal on all ranks.
    """
    return samples if world_size() == 1 else _Gather.apply(samples)


class _Mean(torch.autograd.Function):
    @staticmethod
    def forward(ctx, values: Tensor) -> Tensor:
        total = values.sum(dtype=torch.float64)
        ctx.shape, ctx.count = values.shape, sum_over_ranks(total, values.numel())
        return (total / ctx.count).to(values.dtype)

    @staticmethod
    def backward(ctx, grad_output: Tensor) -> Tensor:
        return (grad_output * (world_size() / ctx.count).to(grad_output.dtype)).expand(ctx.shape)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx, samples: Tensor) -> Tensor:
        rows = samples.movedim(-2, 0).contiguous()
        counts = [rows.new_zeros(1, dtype=torch.int64) for _ in range(world_size())]
        dist.all_gather(counts, rows.new_tensor([len(rows)], dtype=torch.int64))
        counts = [int(count) for count in counts]
        # Collectives want one shape: the shorter ranks send rows that are cut off again.
        padded = torch.cat([rows, rows.new_zeros(max(counts) - len(rows), *rows.shape[1:])])
        received = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(received, padded)
        ctx.start = sum(counts[: dist.get_rank()])
        ctx.length = len(rows)
        return torch.cat([part[:count] for part, count in zip(received, counts, strict=True)]).movedim(0, -2)

    @staticmethod
    def backward(ctx, grad_output: Tensor) -> Tensor:
        return grad_output.narrow(-2, ctx.start, ctx.length) * world_size()
