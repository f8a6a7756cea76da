"""Value and gradient of empirical characteristic functions on uniform knots, block by block, in plain PyTorch.

What `pipeline.losses` differentiates: it owns the statistic's formula, this file the memory and the speed. The
(N, S, T) tensor of angles never exists, nor does the (N, S) matrix of projected samples: a block of columns (slices)
and rows (samples) is projected, its harmonics are summed, and the gradient, a trigonometric polynomial, is evaluated
from the same block while it is in cache. The extra memory is one block and a gradient of the size of the input.

Shapes: V leading entries (views), N samples, K projection dimension, S slices, H = T - 1 knots above 0.

With an initialised process group N is the global batch: sums and counts are summed over all ranks before the
formula sees them (gradient convention: `pipeline.core.distributed.collectives`).
"""

from __future__ import annotations

import importlib.util
import threading
from collections.abc import Callable
from functools import reduce
from typing import NamedTuple

import torch
from torch import Tensor

from pipeline.core.distributed.collectives import sum_over_ranks, world_size
from pipeline.losses.harmonics import FactoredBlock, Visit

# Inner products of two (B, 2 H): of each row, (B,), or of all rows together, ().
Inner = Callable[[Tensor, Tensor], Tensor]
# (sums (B, 2 H) of the cosines and then of the sines, number of samples, inner) -> (value (B,) or (), as inner has it;
# derivative of the value by the sums (B, 2 H)).
Formula = Callable[[Tensor, "Tensor | int", Inner], tuple[Tensor, Tensor]]


class Grid(NamedTuple):
    """Knots 0, d, 2 d, ..., H d and the statistic's formula on them."""

    spacing: float
    num_harmonics: int
    formula: Formula


class SlicedMean(torch.autograd.Function):
    """Mean over views and slices of a statistic of projections (..., N, K) @ directions (K, S)."""

    @staticmethod
    def forward(ctx, projections: Tensor, directions: Tensor, grid: Grid) -> Tensor:
        """Return the mean; keep the gradients, of the size of the inputs."""
        wants_z, wants_a = ctx.needs_input_grad[:2]
        num_samples, dim = projections.shape[-2:]
        z, a = projections.reshape(-1, dim), directions.t()
        shape = z.shape[0], num_samples, a.shape[0]
        share = num_samples / (z.shape[0] * a.shape[0])  # of one slice of one view in the mean
        scale = grid.spacing * world_size() * share
        grad_z = torch.empty_like(z) if wants_z else None
        grad_a = torch.zeros_like(a) if wants_a else None

        def read(rows: slice, columns: slice, angles: Tensor) -> None:
            angles.addmm_(a[columns], z[rows].t(), beta=0, alpha=grid.spacing)

        def write(rows: slice, columns: slice, slopes: Tensor) -> None:
            if grad_z is not None:  # the first columns overwrite what is not initialised
                grad_z[rows].addmm_(slopes.t(), a[columns], beta=int(columns.start > 0), alpha=scale)
            if grad_a is not None:
                grad_a[columns].addmm_(slopes, z[rows], alpha=scale)

        totals = _sweep(shape, read, write if wants_z or wants_a else None, grid, z, _inner_of_all)
        kept_z = None if grad_z is None else grad_z.view(projections.shape)
        ctx.save_for_backward(kept_z, None if grad_a is None else grad_a.t())
        return (reduce(torch.add, totals) * share).to(projections)

    @staticmethod
    def backward(ctx, grad_output: Tensor):
        """Scale the kept gradients."""
        _refuse_double_backward()
        return (*(None if kept is None else kept * grad_output for kept in ctx.saved_tensors), None)


class PerColumn(torch.autograd.Function):
    """A statistic of every column of samples (..., N, S), as (..., S)."""

    @staticmethod
    def forward(ctx, samples: Tensor, grid: Grid) -> Tensor:
        """Return the statistics; keep the derivative of each, of the size of the samples."""
        *views, num_samples, num_slices = samples.shape
        x = samples.reshape(-1, num_slices)
        wants = ctx.needs_input_grad[0]
        slopes_of_all = torch.empty_like(x) if wants else None
        scale = grid.spacing * world_size()

        def read(rows: slice, columns: slice, angles: Tensor) -> None:
            torch.mul(x[rows, columns].t(), grid.spacing, out=angles)

        def write(rows: slice, columns: slice, slopes: Tensor) -> None:
            if slopes_of_all is not None:
                torch.mul(slopes.t(), scale, out=slopes_of_all[rows, columns])

        shape = x.shape[0], num_samples, num_slices
        values = _sweep(shape, read, write if wants else None, grid, x, torch.linalg.vecdot)
        ctx.save_for_backward(None if slopes_of_all is None else slopes_of_all.view(samples.shape))
        return torch.cat(values).view(*views, num_slices).to(samples)

    @staticmethod
    def backward(ctx, grad_output: Tensor):
        """Scale each column of the kept derivatives."""
        _refuse_double_backward()
        (slopes,) = ctx.saved_tensors
        return (None if slopes is None else slopes * grad_output.unsqueeze(-2)), None


def _sweep(
    shape: tuple[int, int, int], read: Visit, write: Visit | None, grid: Grid, like: Tensor, inner: Inner
) -> list[Tensor]:
    """Sum the harmonics of every block, apply the formula, and write every block's derivative.

    Args:
        shape: V * N rows of all views, N rows of a view, S columns.
        read: fills a block with its angles d * x.
        write: gets the derivatives of the statistic by the angles of a block; None if nobody wants them.
        grid: knots and formula.
        like: a tensor of the dtype and on the device to compute with.
        inner: passed to the formula.

    Returns:
        The formula's values, float64, of the blocks of columns of each view in turn.
    """
    all_rows, num_samples, num_slices = shape
    engine = _engine(like)
    num_rows = min(num_samples, engine.max_rows)
    num_columns = min(num_slices, max(1, engine.max_elements // num_rows))
    block = _working_memory(engine, grid.num_harmonics, num_rows * num_columns, like)
    column_slices = _slices(0, num_slices, num_columns)
    views = [_slices(start, start + num_samples, num_rows) for start in range(0, all_rows, num_samples)]
    stacks = [(row_slices, columns) for row_slices in views for columns in column_slices]

    def block_sums(rows: slice, columns: slice) -> Tensor:
        block.load(rows, columns, read)
        return block.sums()

    count: Tensor | int = num_samples
    shared = world_size() > 1
    # Lazily, so that a stack of one block is still loaded when its derivative is asked for.
    sums = (reduce(torch.add, (block_sums(rows, columns) for rows in row_slices)) for row_slices, columns in stacks)
    if shared:
        all_sums = torch.cat(list(sums))
        count = sum_over_ranks(all_sums, num_samples)
        sums = all_sums.split([columns.stop - columns.start for _, columns in stacks])

    values = []
    for (row_slices, columns), stack_sums in zip(stacks, sums, strict=True):
        value, weights = grid.formula(stack_sums, count, inner)
        values.append(value)
        if write is None:
            continue
        for rows in row_slices:
            if shared or len(row_slices) > 1:
                block.load(rows, columns, read)
            write(rows, columns, block.derivative(weights))
    return values


def _slices(start: int, stop: int, length: int) -> list[slice]:
    return [slice(i, min(i + length, stop)) for i in range(start, stop, length)]


def _inner_of_all(x: Tensor, y: Tensor) -> Tensor:
    return (x * y).sum()


def _engine(like: Tensor):
    """Choose the code for blocks: Triton kernels on CUDA where Triton is installed, else plain PyTorch."""
    if like.is_cuda and importlib.util.find_spec("triton") is not None:
        from pipeline.losses.triton_blocks import FusedBlock

        return FusedBlock
    return FactoredBlock


_kept = threading.local()


def _working_memory(engine, num_harmonics: int, size: int, like: Tensor):
    """Allocate a block; on the CPU a thread keeps its last one (8 MiB at 17 knots) for the next call.

    That spares 40 of the 350 us that a call costs beside its arithmetic (measured: reports/LOG.md).
    """
    if like.is_cuda:  # its allocator keeps memory, and another stream could still be reading this one
        return engine(num_harmonics, size, like)
    key = (num_harmonics, size, like.dtype, like.device, torch.is_inference_mode_enabled())
    if getattr(_kept, "key", None) != key:
        _kept.key, _kept.block = key, engine(num_harmonics, size, like)
    return _kept.block


def _refuse_double_backward() -> None:
    if torch.is_grad_enabled():
        raise RuntimeError(
            "SIGReg's gradient cannot be differentiated again: call backward without create_graph=True, "
            "or take another statistic of pipeline.losses.univariate"
        )
