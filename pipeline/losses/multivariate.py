"""Multivariate goodness-of-fit statistics against N(0, I), of projections (..., N, K) as (...); time and memory N^2.

Nothing is standardised first: the hypothesis is the standard normal itself. E_t means the expectation over t.

Source: LeJEPA, arXiv 2511.08544, appendix F; the tests' own papers.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def bhep(projections: Tensor, *, beta: float = 1.0) -> Tensor:
    """Baringhaus-Henze-Epps-Pulley: N E_t |ecf(t) - exp(-|t|^2 / 2)|^2 over t from N(0, beta^2 I).

    Args:
        projections: (..., N, K).
        beta: bandwidth, > 0.

    Returns:
        (...).

    Source: Henze & Wagner, J. Multivariate Analysis 62 (1997). The paper's code leaves out the factor N.
    """
    z = _at_least_float32(projections)
    num_samples, dim = z.shape[-2:]
    squares = z.square().sum(-1)
    distances = squares.unsqueeze(-1) + squares.unsqueeze(-2) - 2 * z @ z.transpose(-1, -2)
    pairs = torch.exp(-(beta**2) / 2 * distances).mean((-1, -2))
    cross = torch.exp(-(beta**2) / (2 + 2 * beta**2) * squares).mean(-1)
    return num_samples * (pairs - 2 * (1 + beta**2) ** (-dim / 2) * cross + (1 + 2 * beta**2) ** (-dim / 2))


def mmd(projections: Tensor, *, bandwidth: float = 1.0) -> Tensor:
    """N times the squared maximum mean discrepancy from N(0, I), Gaussian kernel of width bandwidth * sqrt(K): BHEP.

    Args:
        projections: (..., N, K).
        bandwidth: > 0.

    Returns:
        (...), >= 0.

    Source: KerJEPA, arXiv 2512.19605, Theorem 8, times N.
    """
    return bhep(projections, beta=1 / (bandwidth * math.sqrt(projections.shape[-1])))


def ksd_imq(projections: Tensor, *, bandwidth: float = 1.0, exponent: float = 0.5) -> Tensor:
    """N times the squared kernel Stein discrepancy from N(0, I), kernel k = (1 + |x - y|^2 / h^2)^-exponent.

    h = bandwidth * sqrt(K). The mean over all N^2 pairs, with themselves too, of the Stein kernel, whose score is -x:
    x y k + 2 k' r - 2 K k' - 4 k'' r, where r = |x - y|^2 and k', k'' are derivatives by r.

    Args:
        projections: (..., N, K).
        bandwidth: > 0.
        exponent: > 0.

    Returns:
        (...), >= 0.

    Source: KerJEPA, arXiv 2512.19605, section 3.3, times N; Gorham & Mackey, arXiv 1703.01717.
    """
    z = _at_least_float32(projections)
    num_samples, dim = z.shape[-2:]
    width2 = bandwidth**2 * dim
    products = z @ z.transpose(-1, -2)
    squares = products.diagonal(dim1=-2, dim2=-1)
    distances = squares.unsqueeze(-1) + squares.unsqueeze(-2) - 2 * products
    base = 1 + distances / width2
    kernel = base.pow(-exponent)
    first = -exponent / width2 * kernel / base
    second = exponent * (exponent + 1) / width2**2 * kernel / base.square()
    stein = products * kernel + 2 * first * (distances - dim) - 4 * second * distances
    return num_samples * stein.mean((-1, -2))


def henze_zirkler(projections: Tensor) -> Tensor:
    """BHEP with the bandwidth ((2 K + 1) N / 4)^(1 / (K + 4)) / sqrt(2).

    Args:
        projections: (..., N, K).

    Returns:
        (...).

    Source: Henze & Zirkler, Communications in Statistics 19 (1990).
    """
    num_samples, dim = projections.shape[-2:]
    return bhep(projections, beta=((2 * dim + 1) * num_samples / 4) ** (1 / (dim + 4)) / math.sqrt(2))


def henze_visagie(projections: Tensor, *, gamma: float = 5.0) -> Tensor:
    """Henze-Visagie (HV): N E_t |grad M(t) - t M(t)|^2 over t from N(0, I / (2 gamma)), M(t) = mean exp(t x).

    Pairs weigh exp(|x_j + x_k|^2 / (4 gamma)): computed in float64, and infinite where that overflows, at norms of
    about sqrt(700 gamma). As a loss it suits small K.

    Args:
        projections: (..., N, K).
        gamma: > 1; 5 is the authors' choice.

    Returns:
        (...).

    Source: Henze & Visagie, Annals of the Institute of Statistical Mathematics 72 (2020); the weight is normalised,
    which drops their factor (pi / gamma)^(K / 2), as does the paper's code.
    """
    z = projections.double()
    num_samples, dim = z.shape[-2:]
    products = z @ z.transpose(-1, -2)
    squares = products.diagonal(dim1=-2, dim2=-1)
    sums = squares.unsqueeze(-1) + squares.unsqueeze(-2) + 2 * products
    bracket = products - sums / (2 * gamma) + dim / (2 * gamma) + sums / (4 * gamma**2)
    value = (torch.exp(sums / (4 * gamma)) * bracket).sum((-1, -2)) / num_samples
    return value.to(_at_least_float32(projections).dtype)


def comb(projections: Tensor, *, gamma: float = 5.0) -> Tensor:
    """COMB: N (E_t [C(t) M(t)] - 1)^2, t from N(0, I / (2 gamma)), of C = mean cos(t x) and M = mean exp(t x).

    For N(0, I) the product of characteristic and moment generating function is 1 everywhere. The authors' statistic,
    which the paper's code takes, is sqrt(N) (E - 1): signed, so that descent would drive it below zero; this is its
    square. One equation only: a sample that is not normal can satisfy it. Computed in float64, infinite where exp
    overflows.

    Args:
        projections: (..., N, K).
        gamma: > 0.

    Returns:
        (...).

    Source: Henze, Jimenez-Gamero & Meintanis, Econometric Theory 35 (2019).
    """
    z = projections.double()
    products = z @ z.transpose(-1, -2)
    squares = products.diagonal(dim1=-2, dim2=-1)
    growth = torch.exp((squares.unsqueeze(-1) - squares.unsqueeze(-2)) / (4 * gamma))
    value = z.shape[-2] * ((growth * torch.cos(products / (2 * gamma))).mean((-1, -2)) - 1).square()
    return value.to(_at_least_float32(projections).dtype)


def _at_least_float32(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
