"""Sums and values of the harmonics cos(k theta), sin(k theta), k = 1..H, in about 2 sqrt(H) passes instead of 2 H.

Every harmonic is a product of a coarse and a fine one: with q = 2 h + 1, k = q m + b and b in [-h, h],

    cos(k theta) = cos(q m theta) cos(b theta) - sin(q m theta) sin(b theta)
    sin(k theta) = sin(q m theta) cos(b theta) + cos(q m theta) sin(b theta)

so the sums over samples of all H harmonics are entries of one small matrix product, coarse @ fine^T, and a
trigonometric polynomial with H harmonics is coarse^T @ (coefficients) @ fine: two batched matrix products per block.
Only h + M of the H harmonics are ever built, by doubling angles and adding the first, which is stable, unlike the
three-term recurrence near multiples of pi.

Shapes: B columns and R rows of a block, H harmonics, F = 2 h + 1 fine and C = 2 M + 1 coarse factors.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor


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
        # A pass over memory costs about as much as 8 multiply-adds of the products (measured: reports/LOG.md).
        options.append(((2 * fine + 1) * (2 * coarse + 1) + 16 * (fine + coarse), fine, coarse))
    _, fine, coarse = min(options)
    return fine, coarse


@lru_cache(maxsize=64)
def product_table(num_harmonics: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Say which products of factors make which harmonic.

    Args:
        num_harmonics: H >= 1.
        device: where the table lies; it is kept for the next call.
        dtype: a floating dtype.

    Returns:
        (C * F, 2 H) with entries 0, 1, -1: column k - 1 makes cos(k theta), column H + k - 1
        makes sin(k theta), from the products coarse_c * fine_f at row c * F + f.
    """
    h, m_max = split(num_harmonics)
    stride = 2 * h + 1
    table = torch.zeros(2 * m_max + 1, stride, 2, num_harmonics, dtype=dtype)
    for k in range(1, num_harmonics + 1):
        m = (k + h) // stride
        b = k - m * stride
        fine_cos, fine_sin, sign = abs(b), h + abs(b), 1.0 if b > 0 else -1.0
        table[m, fine_cos, 0, k - 1] = 1.0
        if m:
            table[m_max + m, fine_cos, 1, k - 1] = 1.0
        if b:
            table[m, fine_sin, 1, k - 1] = sign
        if m and b:
            table[m_max + m, fine_sin, 0, k - 1] = -sign
    return table.reshape(-1, 2 * num_harmonics).to(device)


class FactoredBlock:
    """The angles of a block, its harmonics' sums and a polynomial in them; one allocation serves all blocks in turn."""

    # The factors of a block stay in the second-level caches of two cores, and a pass is long enough to hide the cost
    # of starting it (measured: reports/LOG.md; flat within 10% from 2^16 to 2^18 elements).
    max_elements = 1 << 17
    # Rows summed in float32 before the sum goes on in float64.
    max_rows = 2048

    def __init__(self, num_harmonics: int, size: int, like: Tensor) -> None:
        """Allocate for blocks of up to `size` elements, with the dtype and device of `like`."""
        self.h, self.m_max = split(num_harmonics)
        self._table = product_table(num_harmonics, like.device, torch.float64)
        self._table_t = product_table(num_harmonics, like.device, like.dtype).t()
        self._coarse = like.new_empty(2 * self.m_max + 1, size)
        self._fine = like.new_empty(2 * self.h + 1, size)
        self._coarse[0].fill_(1.0)
        self._fine[0].fill_(1.0)
        self._product = like.new_empty(self._fine.numel())

    def load(self, num_columns: int, num_rows: int, read: Callable[[Tensor], None]) -> None:
        """Take the angles of a block.

        Args:
            num_columns: B.
            num_rows: R, B * R at most the allocated size.
            read: fills a tensor (B, R) with the angles, in radians.
        """
        count = num_columns * num_rows
        coarse, fine = (rows[:, :count].view(-1, num_columns, num_rows) for rows in (self._coarse, self._fine))
        scratch = self._product[: fine.numel()]
        angles = scratch[:count].view(num_columns, num_rows)
        read(angles)
        _fill_factors(angles, coarse, fine)
        self.coarse, self.fine = coarse.transpose(0, 1), fine.transpose(0, 1)
        self.product = scratch.view(num_columns, -1, num_rows)

    def sums(self) -> Tensor:
        """Sum cos(k theta), then sin(k theta), over the rows of the loaded block: (B, 2 H) float64."""
        return torch.bmm(self.coarse, self.fine.transpose(1, 2)).flatten(1).double() @ self._table

    def polynomial(self, weights: Tensor) -> Tensor:
        """Evaluate a trigonometric polynomial per column at the loaded angles.

        Args:
            weights: (B, 2 H), of cos(k theta) and then of sin(k theta).

        Returns:
            (B, R); overwritten by the next block.
        """
        matrix = (weights.to(self.product.dtype) @ self._table_t).view(-1, self.coarse.shape[1], self.fine.shape[1])
        torch.bmm(matrix.transpose(1, 2), self.coarse, out=self.product)
        total, *terms = self.product.unbind(1)
        for term, factor in zip(terms, self.fine.unbind(1)[1:], strict=True):
            total.addcmul_(term, factor)
        return total


def _fill_factors(theta: Tensor, coarse: Tensor, fine: Tensor) -> None:
    """Write the factors of a block: below row 0, which is ones, the cosines and then the sines of the frequencies.

    Args:
        theta: (B, R), angles in radians; overwritten.
        coarse: (C, B, R), written.
        fine: (F, B, R), written.
    """
    one, *fine_rows = fine.unbind()
    h = len(fine_rows) // 2
    cos, sin = fine_rows[:h], fine_rows[h:]
    torch.cos(theta, out=cos[0])
    torch.sin(theta, out=sin[0])
    _fill_multiples(one, cos, sin)
    _, *coarse_rows = coarse.unbind()
    m_max = len(coarse_rows) // 2
    if m_max:
        # q theta, q = 2 h + 1, is twice h theta and once theta. theta is free now, the last row is not written yet.
        coarse_cos, coarse_sin = coarse_rows[:m_max], coarse_rows[m_max:]
        twice_cos, twice_sin = theta, torch.empty_like(theta) if m_max == 1 else coarse_sin[-1]
        _double(one, cos[-1], sin[-1], twice_cos, twice_sin)
        _add_angles(twice_cos, twice_sin, cos[0], sin[0], coarse_cos[0], coarse_sin[0])
        _fill_multiples(one, coarse_cos, coarse_sin)


def _fill_multiples(one: Tensor, cos: list[Tensor], sin: list[Tensor]) -> None:
    """Fill cos and sin of 2, 3, ... times the angle of their first entries."""
    for place in range(1, len(cos)):
        if place % 2:
            _double(one, cos[place // 2], sin[place // 2], cos[place], sin[place])
        else:
            _add_angles(cos[place - 1], sin[place - 1], cos[0], sin[0], cos[place], sin[place])


def _double(one: Tensor, cos: Tensor, sin: Tensor, out_cos: Tensor, out_sin: Tensor) -> None:
    torch.addcmul(one, sin, sin, value=-2.0, out=out_cos)
    torch.mul(sin, cos, out=out_sin).mul_(2.0)


def _add_angles(cos: Tensor, sin: Tensor, cos_1: Tensor, sin_1: Tensor, out_cos: Tensor, out_sin: Tensor) -> None:
    torch.mul(cos, cos_1, out=out_cos).addcmul_(sin, sin_1, value=-1.0)
    torch.mul(sin, cos_1, out=out_sin).addcmul_(cos, sin_1)
