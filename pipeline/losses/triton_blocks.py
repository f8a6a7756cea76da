"""Triton kernels for one block on a CUDA device; the same two operations as `pipeline.losses.harmonics.FactoredBlock`.

Imported only when a tensor is on a CUDA device and Triton is installed. A program reads a stretch of one column once
and keeps its harmonics in registers: (cos k theta, sin k theta) is rotated by theta from one harmonic to the next. So
the sums cost one read of the angles, the derivative one read and one write.

Shapes: B columns and R rows of a block, H harmonics.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from pipeline.losses.harmonics import Visit

STRETCH = 1024  # rows that one program handles: 8 a thread with the default 4 warps


@triton.jit
def _sums_kernel(theta, partial, num_rows, num_stretches, num_harmonics, STRETCH: tl.constexpr):
    column = tl.program_id(0).to(tl.int64)
    stretch = tl.program_id(1)
    rows = stretch * STRETCH + tl.arange(0, STRETCH)
    inside = rows < num_rows
    angle = tl.load(theta + column * num_rows + rows, mask=inside, other=0.0)
    # Rows beyond the end are rotated zeros, which add nothing.
    first_cos = tl.where(inside, tl.cos(angle), 0.0)
    first_sin = tl.where(inside, tl.sin(angle), 0.0)
    cos, sin = first_cos, first_sin
    out = partial + (column * num_stretches + stretch) * 2 * num_harmonics
    for k in range(num_harmonics):
        tl.store(out + k, tl.sum(cos, axis=0))
        tl.store(out + num_harmonics + k, tl.sum(sin, axis=0))
        cos, sin = cos * first_cos - sin * first_sin, sin * first_cos + cos * first_sin


@triton.jit
def _derivative_kernel(theta, weights, num_rows, num_harmonics, STRETCH: tl.constexpr):
    column = tl.program_id(0).to(tl.int64)
    rows = tl.program_id(1) * STRETCH + tl.arange(0, STRETCH)
    inside = rows < num_rows
    place = theta + column * num_rows + rows
    angle = tl.load(place, mask=inside, other=0.0)
    first_cos, first_sin = tl.cos(angle), tl.sin(angle)
    cos, sin = first_cos, first_sin
    total = tl.zeros_like(angle)
    of_column = weights + column * 2 * num_harmonics
    for k in range(num_harmonics):
        by_cos, by_sin = (k + 1) * tl.load(of_column + k), (k + 1) * tl.load(of_column + num_harmonics + k)
        total += by_sin * cos - by_cos * sin
        cos, sin = cos * first_cos - sin * first_sin, sin * first_cos + cos * first_sin
    tl.store(place, total, mask=inside)


class FusedBlock:
    """The angles of a block, its harmonics' sums and derivatives; see FactoredBlock for the methods."""

    max_elements = 1 << 22
    max_rows = 1 << 20

    def __init__(self, num_harmonics: int, size: int, like: Tensor) -> None:
        """Allocate the angles of blocks of up to `size` elements."""
        self.num_harmonics = num_harmonics
        self._angles = like.new_empty(size)

    def load(self, rows: slice, columns: slice, read: Visit) -> None:
        """Let `read` fill the angles, (B, R)."""
        num_columns, num_rows = columns.stop - columns.start, rows.stop - rows.start
        self.angles = self._angles[: num_columns * num_rows].view(num_columns, num_rows)
        read(rows, columns, self.angles)

    def sums(self) -> Tensor:
        """Sum over rows: (B, 2 H) float64."""
        num_columns, num_rows = self.angles.shape
        num_stretches = triton.cdiv(num_rows, STRETCH)
        partial = self.angles.new_empty(num_columns, num_stretches, 2 * self.num_harmonics)
        _sums_kernel[(num_columns, num_stretches)](
            self.angles, partial, num_rows, num_stretches, self.num_harmonics, STRETCH=STRETCH, enable_fp_fusion=True
        )
        return partial.sum(dim=1, dtype=torch.float64)

    def derivative(self, weights: Tensor) -> Tensor:
        """Put the derivatives of sum_k weights_k cos(k theta) + weights_{H+k} sin(k theta) in the angles' place."""
        num_columns, num_rows = self.angles.shape
        _derivative_kernel[(num_columns, triton.cdiv(num_rows, STRETCH))](
            self.angles,
            weights.to(self.angles.dtype).contiguous(),
            num_rows,
            self.num_harmonics,
            STRETCH=STRETCH,
            enable_fp_fusion=True,
        )
        return self.angles
