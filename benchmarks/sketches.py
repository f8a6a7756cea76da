"""Estimators of JEPA-SCORE that benchmarks.density compares with pipeline.density's, on Jacobians in memory.

Each takes Jacobians (B, D, P) float64, how many products with J or its transpose it may use, and a generator; the same
random directions serve all samples. Only the ranking of the results (B,) is compared.

Legend: B samples of P numbers each, D embedding.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from pipeline.density.jepa_score import EPS


def full_jacobians(encoder: nn.Module, images: Tensor, *, chunk_size: int) -> Tensor:
    """Return the Jacobians (B, D, P) by torch.func.jacrev: summed over samples, as these do not interact."""
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        found = torch.func.jacrev(lambda pixels: encoder(pixels).sum(0), chunk_size=chunk_size)(images)
    return found.flatten(2).transpose(0, 1)


def log_volume(matrices: Tensor) -> Tensor:
    wide = matrices if matrices.shape[1] <= matrices.shape[2] else matrices.mT
    squares = torch.linalg.eigvalsh(wide @ wide.mT)
    return squares.clamp_min(EPS**2).log().sum(1) / 2


def orthonormal(rows: int, columns: int, draws: torch.Generator) -> Tensor:
    return torch.linalg.qr(torch.randn(rows, columns, generator=draws, dtype=torch.float64)).Q


def random_directions(jacobians: Tensor, passes: int, draws: torch.Generator) -> Tensor:
    directions = orthonormal(jacobians.shape[1], passes, draws).to(jacobians)
    return log_volume(torch.einsum("ds,bdp->bsp", directions, jacobians))


def random_rows(jacobians: Tensor, passes: int, draws: torch.Generator) -> Tensor:
    return log_volume(jacobians[:, torch.randperm(jacobians.shape[1], generator=draws)[:passes]])


def frobenius_norm(jacobians: Tensor, passes: int, draws: torch.Generator) -> Tensor:
    directions = orthonormal(jacobians.shape[1], passes, draws).to(jacobians)
    return torch.einsum("ds,bdp->bsp", directions, jacobians).square().sum((1, 2)).log()


def row_norms(jacobians: Tensor, passes: int, draws: torch.Generator) -> Tensor:
    """All D row norms at once from random input directions: Hadamard's bound of the volume."""
    directions = torch.randn(jacobians.shape[2], passes, generator=draws, dtype=torch.float64).to(jacobians)
    return (jacobians @ directions).square().mean(2).clamp_min(EPS**2).log().sum(1) / 2


def input_directions(jacobians: Tensor, passes: int, draws: torch.Generator) -> Tensor:
    return log_volume(jacobians @ orthonormal(jacobians.shape[2], passes, draws).to(jacobians))


def lanczos(jacobians: Tensor, passes: int, draws: torch.Generator) -> Tensor:
    """Stochastic Lanczos quadrature of tr log max(J J^T, eps^2): a random sign vector, two products a step."""
    dim, num_steps = jacobians.shape[1], max(1, passes // 2)
    signs = (torch.randint(0, 2, (dim,), generator=draws).double() * 2 - 1).to(jacobians)
    basis, diagonal, beside = [signs.expand(len(jacobians), -1) / dim**0.5], [], []
    for _ in range(num_steps):
        product = torch.einsum("bdp,bp->bd", jacobians, torch.einsum("bdp,bd->bp", jacobians, basis[-1]))
        diagonal.append((product * basis[-1]).sum(1))
        for vector in basis * 2:  # twice is enough
            product = product - (product * vector).sum(1, keepdim=True) * vector
        beside.append(product.norm(dim=1))
        basis.append(product / beside[-1].clamp_min(1e-30)[:, None])
    matrix = torch.diag_embed(torch.stack(diagonal, 1))
    if num_steps > 1:
        off = torch.stack(beside[:-1], 1)
        matrix = matrix + torch.diag_embed(off, 1) + torch.diag_embed(off, -1)
    values, vectors = torch.linalg.eigh(matrix)
    return (vectors[:, 0].square() * values.clamp_min(EPS**2).log()).sum(1) * dim / 2


Estimator = Callable[[Tensor, int, torch.Generator], Tensor]
ESTIMATORS: dict[str, Estimator] = {
    "volume along random orthonormal output directions": random_directions,
    "volume of random rows": random_rows,
    "Frobenius norm along random output directions": frobenius_norm,
    "norms of all rows, from random input directions": row_norms,
    "volume along random input directions": input_directions,
    "stochastic Lanczos quadrature": lanczos,
}
