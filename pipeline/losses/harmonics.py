"""Sums and values of the harmonics cos(k theta), sin(k theta), k = 1..H, in about 2 sqrt(H) passes instead of 2 H.

Every harmonic is a product of a coarse and a fine one: with q = 2 h + 1, k = q m + b and b in [-h, h],

    cos(k theta) = cos(q m theta) cos(b theta) - sin(q m theta) sin(b theta)
    sin(k theta) = sin(q m theta) cos(b theta) + cos(q m theta) sin(b theta)

so the sums over samples of all H harmonics are entries of one small matrix product, coarse @ fine^T, and a
trigonometric polynomial with H harmonics, the derivative of a weighted sum of them, is coarse^T @ (coefficients) @
fine: two batched matrix products per block.
Only h + M of the H harmonics are ever built, each from two of half its frequency with one fused multiply-add:

    cos((a + b) theta) = cos((a - b) theta) - 2 sin(a theta) sin(b theta),                a - b in {0, 1}
    sin((a + b) theta) = sin((a - b) theta) + 2 cos(a theta) sin(b theta)

No chain of steps is longer than log2 of the frequency, unlike in the three-term recurrence, and near theta = 0, where
most samples are, only small products of sines are added. Sines are stored up to a constant factor, which spares
a pass for the 2 and which the table of products takes out again.

Shapes: B columns and R rows of a block, H harmonics, F = 2 h + 1 fine and C = 2 M + 1 coarse factors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

import torch
from torch import Tensor

from pipeline.core.float64 import doubled

# Called with the rows and the columns of a block, and their angles (or derivatives by them), (B, R).
Visit = Callable[[slice, slice, Tensor], None]


@lru_cache(maxsize=64)
def split(num_harmonics: int) -> tuple[int, int]:
    """Choose (h, M) such that M (2 h + 1) + h >= H at the least work.

    Args:
        num_harmonics: H >= 1.

    Returns:
        (h, M): how many fine (h >= 1) and coarse (M >= 0) frequencies are built.
    """
    options = []
    for fine in range(1, num_harmonics + 1):
        coarse = max(0, -(-(num_harmonics - fine) // (2 * fine + 1)))
        # One more frequency costs as much as 3 more products of factors (measured: reports/LOG.md).
        options.append(((2 * fine + 1) * (2 * coarse + 1) + 3 * (fine + coarse), fine, coarse))
    _, fine, coarse = min(options)
    return fine, coarse


@lru_cache(maxsize=64)
def product_tables(num_harmonics: int, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Say which products of factors make which harmonic, and which make its derivative.

    Args:
        num_harmonics: H >= 1.
        device: where the tables lie; they are kept for the next call.
        dtype: a floating dtype.

    Returns:
        (C * F, 2 H), sparse: column k - 1 makes cos(k theta), column H + k - 1
        makes sin(k theta), from the products coarse_c * fine_f at row c * F + f.
        (2 H, C * F): the same of the derivatives -k sin(k theta) and k cos(k theta), transposed.
    """
    h, m_max = split(num_harmonics)
    stride = 2 * h + 1
    # Rows of the coarse factors: cosines, sines, ones; of the fine ones: ones, cosines, sines.
    table = torch.zeros(2 * m_max + 1, stride, 2, num_harmonics, dtype=torch.float64)
    for k in range(1, num_harmonics + 1):
        m = (k + h) // stride
        b = k - m * stride
        fine_cos, fine_sin, sign = abs(b), h + abs(b), 1.0 if b > 0 else -1.0
        coarse_cos, coarse_sin = m - 1, m_max + m - 1  # m = 0 makes coarse_cos the last row, ones
        table[coarse_cos, fine_cos, 0, k - 1] = 1.0
        if m:
            table[coarse_sin, fine_cos, 1, k - 1] = 1.0
        if b:
            table[coarse_cos, fine_sin, 1, k - 1] = sign
        if m and b:
            table[coarse_sin, fine_sin, 0, k - 1] = -sign
    stored = torch.ones(2 * m_max + 1, stride, dtype=torch.float64)
    stored[:, h + 1 :] *= torch.tensor(_sine_scales(h, 1.0), dtype=torch.float64)
    stored[m_max:-1] *= torch.tensor(_sine_scales(m_max, -1.0), dtype=torch.float64).unsqueeze(1)
    table /= stored[..., None, None]
    multiples = torch.arange(1, num_harmonics + 1, dtype=torch.float64)
    derivatives = torch.stack([-multiples * table[:, :, 1], multiples * table[:, :, 0]], dim=2)
    harmonics, derivatives = (t.reshape(-1, 2 * num_harmonics).to(device, dtype) for t in (table, derivatives))
    return harmonics, derivatives.t().contiguous()


@lru_cache(maxsize=64)
def _sine_scales(count: int, first: float) -> tuple[float, ...]:
    """Return by what the stored sines of 1, 2, ... times an angle exceed the true ones, the first by `first`."""
    scales: list[float] = []
    for multiple in range(1, count + 1):
        scales.append(first if multiple % 2 else scales[multiple // 2 - 1] / 2)
    return tuple(scales)


class FactoredBlock:
    """The angles of a block, its harmonics' sums and derivatives; one allocation serves all blocks in turn."""

    # The factors of a block stay in the second-level caches of two cores, and a pass is long enough to hide the cost
    # of starting it (measured: reports/LOG.md; flat within 10% from 2^16 to 2^18 elements).
    max_elements = 1 << 17
    # Rows summed in float32 before the sum goes on in float64.
    max_rows = 2048

    def __init__(self, num_harmonics: int, size: int, like: Tensor) -> None:
        """Allocate for blocks of up to `size` elements, with the dtype and device of `like`."""
        h, m_max = split(num_harmonics)
        self._harmonics, self._derivatives = product_tables(num_harmonics, like.device, like.dtype)
        self._num_coarse, self._num_fine = 2 * m_max + 1, 2 * h + 1
        self._rows = like.new_empty(self._num_coarse - 1 + self._num_fine, size)
        # The last coarse and the first fine row are the same ones.
        self._rows[self._num_coarse - 1].fill_(1.0)
        self._product = like.new_empty(self._num_fine * size)
        self._shape = (0, 0)

    def load(self, rows: slice, columns: slice, read: Visit) -> None:
        """Take the angles of a block.

        Args:
            rows: R of them.
            columns: B of them, B * R at most the allocated size.
            read: fills a tensor (B, R) with the angles of these rows and columns, in radians.
        """
        shape = columns.stop - columns.start, rows.stop - rows.start
        if self._shape != shape:
            self._reshape(*shape)
        read(rows, columns, self._angles)
        _fill_factors(self._angles, *self._factors)

    def _reshape(self, num_columns: int, num_rows: int) -> None:
        """Make the views of the allocated memory that a block of this shape works on."""
        self._shape = num_columns, num_rows
        count, coarse = num_columns * num_rows, self._num_coarse - 1
        rows = self._rows[:, :count].view(-1, num_columns, num_rows)
        self._product_of_block = self._product[: self._num_fine * count].view(num_columns, -1, num_rows)
        self._terms = self._product_of_block.unbind(1)
        self._angles = self._product[:count].view(num_columns, num_rows)
        separate = rows.unbind()
        self._factors = separate[:coarse], separate[coarse], separate[coarse + 1 :]
        self._coarse = rows[: self._num_coarse].transpose(0, 1)
        self._fine_t = rows[coarse:].permute(1, 2, 0)
        # Of every product coarse_c * fine_f: its sum over rows, and later its coefficient.
        self._pairs = rows.new_empty(num_columns, self._num_coarse * self._num_fine)
        self._matrices = self._pairs.view(num_columns, self._num_coarse, self._num_fine)
        self._matrices_t = self._matrices.transpose(1, 2)

    def sums(self) -> Tensor:
        """Sum cos(k theta), then sin(k theta), over the rows of the loaded block: (B, 2 H) float64."""
        torch.bmm(self._coarse, self._fine_t, out=self._matrices)
        # Every entry of this product adds at most two terms times powers of two: one rounding, as storing it costs.
        return doubled(torch.mm(self._pairs, self._harmonics))

    def derivative(self, weights: Tensor) -> Tensor:
        """Differentiate a weighted sum of harmonics per column by the loaded angles.

        Args:
            weights: (B, 2 H), of cos(k theta) and then of sin(k theta).

        Returns:
            (B, R); overwritten by the next block.
        """
        torch.mm(weights.to(self._pairs), self._derivatives, out=self._pairs)
        torch.bmm(self._matrices_t, self._coarse, out=self._product_of_block)
        total, *terms = self._terms
        for term, factor in zip(terms, self._factors[-1], strict=True):
            total.addcmul_(term, factor)
        return total


def _fill_factors(theta: Tensor, coarse: Sequence[Tensor], one: Tensor, fine: Sequence[Tensor]) -> None:
    """Write the cosines and then the sines of a block's coarse and fine frequencies.

    Args:
        theta: (B, R), angles in radians; overwritten.
        coarse: C - 1 tensors (B, R), written; sines scaled by _sine_scales(M, -1).
        one: (B, R), ones.
        fine: F - 1 tensors (B, R), written; sines scaled by _sine_scales(h, 1).
    """
    h = len(fine) // 2
    cos, sin = fine[:h], fine[h:]
    torch.cos(theta, out=cos[0])
    torch.sin(theta, out=sin[0])
    scales = _sine_scales(h + 1, 1.0)
    _fill_multiples(one, cos, sin, scales)
    if coarse:
        coarse_cos, coarse_sin = coarse[: len(coarse) // 2], coarse[len(coarse) // 2 :]
        # q theta = (h + 1) theta + h theta; theta is free now and takes the sine of (h + 1) theta.
        _multiple_of_sine(cos, sin, h + 1, scales, theta)
        torch.addcmul(cos[0], theta, sin[-1], value=-2 / (scales[h] * scales[h - 1]), out=coarse_cos[0])
        torch.addcmul(sin[0], theta, cos[-1], value=-2 / scales[h], out=coarse_sin[0])
        _fill_multiples(one, coarse_cos, coarse_sin, _sine_scales(len(coarse_sin), -1.0))


def _fill_multiples(one: Tensor, cos: Sequence[Tensor], sin: Sequence[Tensor], scales: Sequence[float]) -> None:
    """Fill cos and sin of 2, 3, ... times the angle of their first entries."""
    for multiple in range(2, len(cos) + 1):
        a, b = (multiple + 1) // 2 - 1, multiple // 2 - 1
        value = -2 / (scales[a] * scales[b])
        torch.addcmul(one if a == b else cos[0], sin[a], sin[b], value=value, out=cos[multiple - 1])
        _multiple_of_sine(cos, sin, multiple, scales, sin[multiple - 1])


def _multiple_of_sine(
    cos: Sequence[Tensor], sin: Sequence[Tensor], multiple: int, scales: Sequence[float], out: Tensor
) -> None:
    a, b = (multiple + 1) // 2 - 1, multiple // 2 - 1
    if a == b:
        torch.mul(cos[a], sin[a], out=out)
    else:
        torch.addcmul(sin[0], cos[a], sin[b], value=2 * scales[0] / scales[b], out=out)
