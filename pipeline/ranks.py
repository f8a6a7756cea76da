"""The batch that several processes share: means and samples over all ranks, differentiable.

Gradient convention, the same everywhere: a rank gets world size * d(value)/d(its own samples), as it would from a mean
over its local batch. DistributedDataParallel averages parameter gradients over ranks, which makes that average the
gradient of one process on the concatenated batch. So under DDP the caller does nothing; without DDP it averages
parameter gradients over ranks. No backward pass communicates: every rank must give the value the same weight in its
loss, which DDP assumes as well. Ranks may hold different numbers of samples.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from pipeline.errors import UserError

# What gloo and NCCL say when a process is gone.
LOST = ("closed by peer", "reset by peer", "Connection refused", "remote process exited", "Broken pipe")


_alone = ContextVar("alone", default=False)


def world_size() -> int:
    """Count the processes that share the batch: 1 without an initialised process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() and not _alone.get() else 1


@contextmanager
def alone() -> Iterator[None]:
    """Compute something that this rank shares with no other, such as a statistic of held-out images."""
    before = _alone.set(True)
    try:
        yield
    finally:
        _alone.reset(before)


def rank() -> int:
    """Return this process's number among those that share the batch: 0 without a process group."""
    return dist.get_rank() if world_size() > 1 else 0


def share(num: int) -> slice:
    """Return which of `num` rows, a multiple of the world size, are this rank's: equal parts in the order of ranks."""
    each = num // world_size()
    return slice(rank() * each, (rank() + 1) * each)


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Average gradients over all ranks, in place, in one message; nothing without a process group.

    After this they are those of one process on the concatenated batch (gradient convention above). Every rank must
    have gradients of the same parameters. DistributedDataParallel would send while the backward pass still runs, but it
    wants one forward pass a step, and a step passes the backbone once for each size of views.
    """
    if world_size() == 1:
        return
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    flat /= world_size()
    for gradient, part in zip(gradients, flat.split([gradient.numel() for gradient in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))


def any_rank(flag: int, device: torch.device) -> int:
    """Return the largest of a number of every rank; the host waits for it."""
    if world_size() == 1:
        return flag
    found = torch.tensor(flag, device=device)
    dist.all_reduce(found, op=dist.ReduceOp.MAX)
    return int(found)


def from_first_rank(value: Any) -> Any:
    """Return rank 0's value on every rank; pickled, since it comes from a process of the same run."""
    if world_size() == 1:
        return value
    held = [value]
    dist.broadcast_object_list(held, src=0)
    return held[0]


@contextmanager
def process_group(device: torch.device) -> Iterator[torch.device]:
    """Join the processes that torchrun started (WORLD_SIZE of the environment); alone without it.

    NCCL on CUDA, gloo on the CPU.

    Raises:
        UserError: another process died; this one has noticed at its next message.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or dist.is_initialized():
        yield device
        return
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield device
    except RuntimeError as error:
        if not any(words in str(error) for words in LOST):
            raise
        told = str(error).splitlines()[0]
        raise UserError(
            f"rank {dist.get_rank()}: another process of this run ended ({told}); the last state is kept, run it again"
        ) from error
    dist.destroy_process_group()  # after a failure it would wait for processes that are gone


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
