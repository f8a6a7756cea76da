"""Other goodness-of-fit statistics against N(0, 1) and N(0, I): the axis `pretrain.sigreg.statistic` of a grid.

All are differentiable, smaller is closer to normal, and compare with the standard normal itself: nothing is
standardised first, unless the statistic's definition does it (Shapiro-Wilk; skewness and kurtosis of Jarque-Bera).
Univariate ones, here, take samples (..., N, S) to (..., S), one value per slice; those of multivariate.py take
projections (..., N, K) to (...). float16 and bfloat16 are computed in float32.

Source: LeJEPA, arXiv 2511.08544, section 4.2 and appendix F; the tests' own papers where named.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from pipeline.core.distributed.collectives import gather_samples
from pipeline.losses.lejepa import epps_pulley, sigreg
from pipeline.losses.multivariate import bhep, comb, henze_visagie, henze_zirkler, ksd_imq, mmd
from pipeline.runtime.errors import did_you_mean


def extended_jarque_bera(samples: Tensor) -> Tensor:
    """Jarque-Bera plus a mean and a variance term, about chi-squared with 4 degrees of freedom under N(0, 1).

    N mean^2 / var + (N - 1) (var - 1)^2 / 2 + N / 6 (skewness^2 + (kurtosis - 3)^2 / 4), var unbiased. Skewness and
    kurtosis are the classic test's, over the biased variance; the paper's code divides by the unbiased one.

    Args:
        samples: (..., N, S), N >= 2.

    Returns:
        (..., S).
    """
    x = _at_least_float32(samples)
    num_samples = x.shape[-2]
    mean = x.mean(-2)
    centred = x - mean.unsqueeze(-2)
    # Collapsed samples must not divide by zero.
    biased = centred.square().mean(-2).clamp_min(torch.finfo(x.dtype).eps)
    var = biased * num_samples / (num_samples - 1)
    skewness = centred.pow(3).mean(-2) / biased.pow(1.5)
    excess = centred.pow(4).mean(-2) / biased.square() - 3
    shape = num_samples / 6 * (skewness.square() + excess.square() / 4)
    return num_samples * mean.square() / var + (num_samples - 1) / 2 * (var - 1).square() + shape


def vcreg(samples: Tensor) -> Tensor:
    """Variance-covariance regularisation of slices: mean^2 + (std - 1)^2, std over N; its limit in slices is VICReg's.

    Args:
        samples: (..., N, S), N >= 2.

    Returns:
        (..., S).
    """
    x = _at_least_float32(samples)
    mean = x.mean(-2)
    # A norm, because the square root of a variance of 0 has no gradient.
    std = torch.linalg.vector_norm(x - mean.unsqueeze(-2), dim=-2) / math.sqrt(x.shape[-2])
    return mean.square() + (std - 1).square()


def moments(samples: Tensor, *, max_order: int = 4) -> Tensor:
    """Weighted squared gaps of the raw moments 1 to max_order from N(0, 1)'s; moment k has weight exp(1 - k).

    The paper's formula squares the gaps; its code, whose weights these are, takes absolute values.

    Args:
        samples: (..., N, S).
        max_order: >= 1.

    Returns:
        (..., S).
    """
    x = _at_least_float32(samples)
    total = torch.zeros_like(x[..., 0, :])
    for order in range(1, max_order + 1):
        # E x^k is (k - 1)!! for even k.
        normal = math.prod(range(1, order, 2)) if order % 2 == 0 else 0
        total = total + math.exp(1 - order) * (x.pow(order).mean(-2) - normal).square()
    return total


def cramer_von_mises(samples: Tensor) -> Tensor:
    """Cramer-von Mises: N integral (F_N - F)^2 dF = 1 / (12 N) + sum_i ((2 i - 1) / (2 N) - F(x_(i)))^2.

    Args:
        samples: (..., N, S).

    Returns:
        (..., S).
    """
    x = _at_least_float32(samples).sort(-2).values
    gaps = (2 * _ranks(x) - 1) / (2 * x.shape[-2]) - torch.special.ndtr(x)
    return gaps.square().sum(-2) + 1 / (12 * x.shape[-2])


def watson(samples: Tensor) -> Tensor:
    """Watson: Cramer-von Mises less N (mean F(x) - 1/2)^2, which makes it blind to where a circle starts.

    Args:
        samples: (..., N, S).

    Returns:
        (..., S).
    """
    x = _at_least_float32(samples)
    return cramer_von_mises(x) - x.shape[-2] * (torch.special.ndtr(x).mean(-2) - 0.5).square()


def anderson_darling(samples: Tensor) -> Tensor:
    """Anderson-Darling: N integral (F_N - F)^2 / (F (1 - F)) dF, which weighs the tails.

    Args:
        samples: (..., N, S).

    Returns:
        (..., S).
    """
    x = _at_least_float32(samples).sort(-2).values
    # log(1 - F(x)) = log F(-x); log_ndtr stays finite far out in the tails.
    logs = torch.special.log_ndtr(x) + torch.special.log_ndtr(-x.flip(-2))
    return -x.shape[-2] - ((2 * _ranks(x) - 1) * logs).mean(-2)


def shapiro_wilk(samples: Tensor) -> Tensor:
    """1 - W of Shapiro-Wilk, in [0, 1], with Royston's weights (AS R94, Applied Statistics 44, 1995).

    W compares shapes: it sees neither the mean nor the scale, so it cannot prevent collapse by itself.

    Args:
        samples: (..., N, S), N >= 3.

    Returns:
        (..., S).

    Raises:
        ValueError: N < 3.
    """
    x = _at_least_float32(samples).sort(-2).values
    weights = _royston_weights(x.shape[-2]).to(x).unsqueeze(-1)
    spread = (x - x.mean(-2, keepdim=True)).square().sum(-2).clamp_min(torch.finfo(x.dtype).eps)
    return 1 - (weights * x).sum(-2).square() / spread


UNIVARIATE: dict[str, Callable[[Tensor], Tensor]] = {
    "epps_pulley": epps_pulley,
    "extended_jarque_bera": extended_jarque_bera,
    "vcreg": vcreg,
    "moments": moments,
    "cramer_von_mises": cramer_von_mises,
    "watson": watson,
    "anderson_darling": anderson_darling,
    "shapiro_wilk": shapiro_wilk,
}
MULTIVARIATE: dict[str, Callable[[Tensor], Tensor]] = {
    "bhep": bhep,
    "henze_zirkler": henze_zirkler,
    "henze_visagie": henze_visagie,
    "comb": comb,
    "mmd": mmd,
    "ksd_imq": ksd_imq,
}
STATISTICS = {**UNIVARIATE, **MULTIVARIATE}


def statistic_by_name(name: str, *, t_max: float = 3.0, num_knots: int = 17) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the regulariser that `lejepa_loss(statistic=...)` takes.

    With an initialised process group every choice is that of the global batch: Epps-Pulley sums over ranks, the others
    gather the projections of all ranks.

    Args:
        name: a key of STATISTICS.
        t_max: of Epps-Pulley; the others have no grid.
        num_knots: of Epps-Pulley.

    Returns:
        A function of projections (..., N, K) and directions (K, S), which gives the scalar mean over leading axes and,
        for univariate statistics, slices. Multivariate statistics do not use the directions.

    Raises:
        ValueError: an unknown name; the message lists the known ones.
    """
    if name not in STATISTICS:
        raise ValueError(f"unknown statistic {name!r}{did_you_mean(name, STATISTICS)}")
    if name == "epps_pulley":
        return partial(sigreg, t_max=t_max, num_knots=num_knots)
    statistic = STATISTICS[name]

    def regulariser(projections: Tensor, directions: Tensor) -> Tensor:
        z = gather_samples(_at_least_float32(projections))
        with torch.autocast(z.device.type, enabled=False):
            return statistic(z @ directions.to(z.dtype) if name in UNIVARIATE else z).mean()

    return regulariser


def _at_least_float32(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _ranks(sorted_samples: Tensor) -> Tensor:
    """Return 1..N as a column that broadcasts over slices."""
    num_samples = sorted_samples.shape[-2]
    return torch.arange(1, num_samples + 1, device=sorted_samples.device, dtype=sorted_samples.dtype).unsqueeze(-1)


def _royston_weights(num_samples: int) -> Tensor:
    """Return the weights of the order statistics, (N,) float64, antisymmetric and of norm 1."""
    if num_samples < 3:
        raise ValueError(f"Shapiro-Wilk needs N >= 3 samples, got N = {num_samples}")
    if num_samples == 3:
        return torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64) / math.sqrt(2)
    i = torch.arange(1, num_samples + 1, dtype=torch.float64)
    scores = torch.special.ndtri((i - 0.375) / (num_samples + 0.25))
    norm2 = scores.square().sum()
    u = 1 / math.sqrt(num_samples)
    # Polynomials in 1 / sqrt(N) of AS R94 for the weights of the largest and the second largest sample.
    first = ((((-2.706056 * u + 4.434685) * u - 2.071190) * u - 0.147981) * u + 0.221157) * u
    second = ((((-3.582633 * u + 5.682633) * u - 1.752461) * u - 0.293762) * u + 0.042981) * u
    ends = [scores[-1] / norm2.sqrt() + first]
    if num_samples > 5:
        ends.append(scores[-2] / norm2.sqrt() + second)
    count = len(ends)
    rest = norm2 - 2 * scores[-count:].square().sum()
    weights = scores * torch.sqrt((1 - 2 * sum(end.square() for end in ends)) / rest)
    for place, end in enumerate(ends):
        weights[-1 - place], weights[place] = end, -end
    return weights
