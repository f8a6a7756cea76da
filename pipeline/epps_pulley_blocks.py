"""Value and gradient of empirical characteristic functions on uniform knots, block by block, in plain PyTorch.

What `pipeline.losses` differentiates: it owns the statistic's formula, this file the memory and the speed. The
(N, S, T) tensor of angles never exists, nor does the (N, S) matrix of projected samples: a block of columns (slices)
and rows (samples) is projected, its harmonics are summed, and the gradient, a trigonometric polynomial, is evaluated
from the same block while it is in cache. The extra memory is one block and a gradient of the size of the input.

Shapes: V leading entries (views), N samples, K projection dimension, S slices, H = T - 1 knots above 0.

With an initialised process group N is the global batch: sums and counts are summed over all ranks before the
formula sees them (gradient convention: `pipeline.ranks`).
"""

from __future__ import annotations

import importlib.util
import threading
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from pipeline.harmonics import FactoredBlock
from pipeline.ranks import sum_over_ranks, world_size

# (sums (B, 2 H) of the cosines and then of the sines, number of samples) -> (value (B,), weights (B, 2 H)): the
# derivative of the value by a sample x is the sum over k of weights_k cos(k d x) + weights_{H + k} sin(k d x).
Formula = Callable[[Tensor, "Tensor | int"], tuple[Tensor, Tensor]]


class Grid(NamedTuple):
    """Knots 0, d, 2 d, ..., H d and the statistic's formula on them."""

    spacing: float
    num_harmonics: int
    formula: Formula


class _Block(NamedTuple):
    view: int
    rows: slice
    columns: slice


class SlicedMean(torch.autograd.Function):
    """Mean over views and slices of a statistic of projections @ directions."""

    @staticmethod
    def forward(ctx, projections: Tensor, directions: Tensor, grid: Grid) -> Tensor:
        """Return the mean; keep the gradients, of the size of the inputs."""
        (num_views, num_samples, _), num_slices = projections.shape, directions.shape[1]
        wants_z, wants_a = ctx.needs_input_grad[:2]
        grad_z = torch.zeros_like(projections) if wants_z else None
        grad_a = torch.zeros_like(directions) if wants_a else None
        scale = world_size() / (num_views * num_slices)

        def read(block: _Block, out: Tensor) -> None:
            a, z = directions[:, block.columns].t(), projections[block.view][block.rows].t()
            out.addmm_(a, z, beta=0, alpha=grid.spacing)

        def write(block: _Block, slope: Tensor) -> None:
            if wants_z:
                grad_z[block.view][block.rows].addmm_(slope.t(), directions[:, block.columns].t(), alpha=scale)
            if wants_a:
                grad_a[:, block.columns].addmm_(projections[block.view][block.rows].t(), slope.t(), alpha=scale)

        shape = (num_views, num_samples, num_slices)
        values = _sweep(shape, read, write if wants_z or wants_a else None, grid, projections)
        ctx.save_for_backward(grad_z, grad_a)
        return values.mean().to(projections.dtype)

    @staticmethod
    def backward(ctx, grad_output: Tensor):
        """Scale the kept gradients."""
        _refuse_double_backward()
        return (*(None if kept is None else kept * grad_output for kept in ctx.saved_tensors), None)


class PerColumn(torch.autograd.Function):
    """A statistic of every column of samples (V, N, S), as (V, S)."""

    @staticmethod
    def forward(ctx, samples: Tensor, grid: Grid) -> Tensor:
        """Return the statistics; keep the derivative of each, of the size of the samples."""
        wants = ctx.needs_input_grad[0]
        slopes = torch.empty_like(samples) if wants else None
        scale = world_size()

        def read(block: _Block, out: Tensor) -> None:
            torch.mul(samples[block.view, block.rows, block.columns].t(), grid.spacing, out=out)

        def write(block: _Block, slope: Tensor) -> None:
            torch.mul(slope.t(), scale, out=slopes[block.view, block.rows, block.columns])

        values = _sweep(tuple(samples.shape), read, write if wants else None, grid, samples)
        ctx.save_for_backward(slopes)
        return values.to(samples.dtype)

    @staticmethod
    def backward(ctx, grad_output: Tensor):
        """Scale each column of the kept derivatives."""
        _refuse_double_backward()
        (slopes,) = ctx.saved_tensors
        return (None if slopes is None else slopes * grad_output.unsqueeze(-2)), None


def _sweep(
    shape: tuple[int, int, int],
    read: Callable[[_Block, Tensor], None],
    write: Callable[[_Block, Tensor], None] | None,
    grid: Grid,
    like: Tensor,
) -> Tensor:
    """Sum the harmonics of every block, apply the formula, and write every block's derivative; returns (V, S) float64.

    `read` fills a block's angles d * x, as (columns, rows); `write` gets the derivatives of the same samples.
    """
    num_views, num_samples, num_slices = shape
    engine = _engine(like)
    num_rows = min(num_samples, engine.max_rows)
    num_columns = min(num_slices, max(1, engine.max_elements // num_rows))
    row_slices = [slice(i, min(i + num_rows, num_samples)) for i in range(0, num_samples, num_rows)]
    column_slices = [slice(i, min(i + num_columns, num_slices)) for i in range(0, num_slices, num_columns)]
    stacks = [(v, columns) for v in range(num_views) for columns in column_slices]
    block = _working_memory(engine, grid.num_harmonics, num_rows * num_columns, like)
    values = []

    def load(view: int, rows: slice, columns: slice) -> None:
        block.load(columns.stop - columns.start, rows.stop - rows.start, partial(read, _Block(view, rows, columns)))

    def sums(view: int, columns: slice) -> Tensor:
        total: Tensor | int = 0
        for rows in row_slices:
            load(view, rows, columns)
            total = total + block.sums()
        return total

    count: Tensor | int = num_samples
    shared = world_size() > 1
    if shared:
        all_sums = like.new_empty((num_views, num_slices, 2 * grid.num_harmonics), dtype=torch.float64)
        for view, columns in stacks:
            all_sums[view, columns] = sums(view, columns)
        count = sum_over_ranks(all_sums, num_samples)

    for view, columns in stacks:
        value, weights = grid.formula(all_sums[view, columns] if shared else sums(view, columns), count)
        values.append(value)
        for rows in row_slices if write is not None else []:
            if shared or len(row_slices) > 1:  # else the block is still loaded
                load(view, rows, columns)
            write(_Block(view, rows, columns), block.polynomial(weights))
    return torch.cat(values).view(num_views, num_slices)


def _engine(like: Tensor):
    """Choose the code for blocks: Triton kernels on CUDA where Triton is installed, else plain PyTorch."""
    if like.is_cuda and importlib.util.find_spec("triton") is not None:
        from pipeline.epps_pulley_triton import FusedBlock

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
            "or take another statistic of pipeline.statistics"
        )
