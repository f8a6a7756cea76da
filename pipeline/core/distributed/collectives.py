"""The batch that several processes share: means and samples over all ranks, differentiable.

Gradient convention, the same everywhere: a rank gets world size * d(value)/d(its own samples), as it would from a mean
over its local batch. DistributedDataParallel (`data_parallel`) averages parameter gradients over ranks, which makes
that average the gradient of one process on the concatenated batch. No backward pass communicates: every rank must give
the value the same weight in its loss, which DDP assumes as well. Ranks may hold different numbers of samples.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from pipeline.runtime.errors import UserError

JOINING = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")  # what torchrun tells a process of the others
TOGETHER = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE")  # of srun and mpirun: tasks of one start
WAIT_MIN = 10.0  # for the other processes; torch's own limits are 10 minutes for NCCL, 30 for gloo
TOLD_AFTER_S = 5.0
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


def data_parallel(module: nn.Module) -> nn.Module:
    """Average the module's gradients over ranks while its backward pass runs; the module itself without a group.

    The gradients are then those of one process on the concatenated batch (gradient convention above), if one forward
    pass of the whole module stands in each step, the same on all ranks. A parameter that it never uses keeps no
    gradient. Buffers are not sent: a BatchNorm over all ranks has equal ones.
    """
    if world_size() == 1:
        return module
    return nn.parallel.DistributedDataParallel(module, broadcast_buffers=False, static_graph=True)


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


def started() -> int:
    """Return how many processes work on this run by the environment: WORLD_SIZE, 1 without it.

    Raises:
        UserError: WORLD_SIZE does not fit what else the environment says of the other processes.
    """
    said = {name: os.environ.get(name, "") for name in JOINING}
    told = " ".join(f"{name}={value}" for name, value in said.items() if value)
    remedy = "unset WORLD_SIZE and set pretrain.layout.processes, which starts them, or start them with torchrun"
    if not said["WORLD_SIZE"]:
        return 1
    numbers = [said[name] or "0" for name in ("WORLD_SIZE", "RANK")]
    if not all(number.isdecimal() for number in numbers) or not int(numbers[1]) < int(numbers[0]):
        raise UserError(f"the environment has {told}; WORLD_SIZE must be >= 1 and RANK from 0 to below it; {remedy}")
    missing = [name for name, value in said.items() if not value]
    if missing and int(numbers[0]) > 1:
        raise UserError(
            f"the environment has {told}, so this is one of several processes, but not {', '.join(missing)}, "
            f"by which they find each other; {remedy}"
        )
    return int(numbers[0])


def refuse_strangers() -> None:
    """Refuse to be one of several processes that srun or mpirun started and that know nothing of each other.

    Raises:
        UserError: they would all write the same files.
    """
    for name in () if os.environ.get("WORLD_SIZE") else TOGETHER:
        if (number := os.environ.get(name, "1")) != "1":
            raise UserError(
                f"{name}={number} says that this is one of {number} processes, which would all do the same work; start "
                f"one, with pretrain.layout.processes: {number}, or set {', '.join(JOINING)} and LOCAL_RANK for each"
            )


@contextmanager
def process_group(device: torch.device) -> Iterator[torch.device]:
    """Join the processes that torchrun started (WORLD_SIZE of the environment); alone without it.

    NCCL on CUDA, gloo on the CPU.

    Raises:
        UserError: the others did not come; or another process died, and this one has noticed at its next message.
    """
    if started() == 1 or dist.is_initialized():
        yield device
        return
    _join("nccl" if device.type == "cuda" else "gloo")
    try:
        yield device
    except RuntimeError as error:
        if not any(words in str(error) for words in LOST):
            raise
        told = str(error).splitlines()[0]
        raise UserError(
            f"rank {dist.get_rank()}: another process of this run ended ({told}); "
            "rerun the same command to resume from the last checkpoint"
        ) from error
    dist.destroy_process_group()  # after a failure it would wait for processes that are gone


def _join(backend: str) -> None:
    """Meet the other processes; whoever waits for long says for what."""
    number, size, host, port = (os.environ[name] for name in JOINING)
    where = f"rank {number} of {size} at MASTER_ADDR={host} MASTER_PORT={port}"
    waiting = f"{where}: waits for the other processes of the run, for up to {WAIT_MIN:g} minutes"
    timer = threading.Timer(TOLD_AFTER_S, print, [waiting], {"file": sys.stderr, "flush": True})
    timer.daemon = True
    timer.start()
    try:
        dist.init_process_group(backend, timeout=timedelta(minutes=WAIT_MIN))
    except (dist.DistError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        remedy = "start all of them within that time, or unset WORLD_SIZE to work alone"
        if "EADDRINUSE" in str(error) or "address already in use" in str(error):
            reason, remedy = "another program has that port", "set MASTER_PORT to a free one"
        raise UserError(f"{where}: the processes of the run did not meet ({reason}); {remedy}") from error
    finally:
        timer.cancel()


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
