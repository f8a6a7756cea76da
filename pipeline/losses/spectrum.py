"""How samples fill their space, without labels: norms, spectrum, ranks, isotropy, distance from normality.

Legend: N images, D dimensions, Z samples (N, D), C their covariance (divided by N), lambda_i its eigenvalues, n classes
of q views each, S slices.

All of it is computed in float64 on the CPU, but for Epps-Pulley. Samples that are not finite give NaN, never an error:
a run that diverges should be reported, not stopped, by those who watch it. Samples that do not vary at all have ranks
and an isotropy of 0.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pipeline.losses.lejepa import epps_pulley

# Ranks of the eigenvalues that the power law is fitted to: those of alpha-ReQ's published code.
POWER_LAW_RANKS = range(4, 101)
# Ridge of LiDAR as a fraction of the mean variance within classes; its paper prints no value.
LIDAR_RIDGE_FRAC = 1e-4
ROUNDING = 1e-6  # of float32 forward passes, relative


def norms(samples: Tensor) -> Tensor:
    """Return the Euclidean norm of every sample: (N, D) -> (N,), float64."""
    return torch.linalg.vector_norm(_exact(samples), dim=1)


def root_mean_variance(samples: Tensor) -> float:
    """Return sqrt(tr C / D), the standard deviation of a dimension: (N, D) -> >= 0; 0 where all varies by rounding."""
    z = _exact(samples)
    return float(_deviations(z, z.mean(0)).norm()) / math.sqrt(z.numel())


def singular_values(samples: Tensor) -> Tensor:
    """Return the singular values of the samples as they are, not centred.

    Args:
        samples: (N, D).

    Returns:
        (min(N, D),) float64, falling. They are roots of the smaller Gram matrix's eigenvalues, so what lies below
        about 1e-6 of the largest is 0.
    """
    return _gram_eigenvalues(_exact(samples)).sqrt()


def covariance_eigenvalues(samples: Tensor) -> Tensor:
    """Return the eigenvalues of the covariance.

    Args:
        samples: (N, D).

    Returns:
        (min(N, D),) float64, falling; any others are 0.
    """
    z = _exact(samples)
    return _gram_eigenvalues(_deviations(z, z.mean(0))) / len(z)


def effective_rank(weights: Tensor) -> float:
    """Return exp(entropy) of weights that are scaled to sum to 1: how many of them count.

    Of singular values it is RankMe, of eigenvalues the smooth rank that LiDAR takes. The papers add about 1e-7 to every
    scaled weight to keep logarithms finite; here 0 log 0 is 0, which lowers the rank of 2048 weights by at most 0.4 %.

    Args:
        weights: (M,), >= 0.

    Returns:
        In [1, M]; 0 if all are 0.

    Source: Roy & Vetterli, EUSIPCO 2007; RankMe: Garrido et al., arXiv 2210.02885.
    """
    total = weights.sum()
    return 0.0 if total == 0 else float(torch.special.entr(weights / total).sum().exp())


def isotropy(samples: Tensor) -> float:
    """Return (tr C)^2 / (D tr C^2), the participation ratio as a fraction of D: 1 if the covariance is a ball's.

    The sample covariance of N isotropic Gaussian samples gives about 1 / (1 + D / N), so compare at equal N.

    Args:
        samples: (N, D).

    Returns:
        In (0, 1]; 0 for samples that do not vary.
    """
    z = _exact(samples)
    gram = _smaller_gram(_deviations(z, z.mean(0)))
    trace = gram.trace()
    # The Frobenius norm needs no eigenvalues.
    return 0.0 if trace == 0 else float(trace.square() / (z.shape[1] * gram.square().sum()))


def stable_rank(eigenvalues: Tensor) -> float:
    """Return the sum of the covariance's eigenvalues over the largest, in [1, D]; 0 if all are 0.

    Source: also called NESum: He & Ozay, ICML 2022.
    """
    return 0.0 if eigenvalues[0] == 0 else float(eigenvalues.sum() / eigenvalues[0])


def alpha_req(eigenvalues: Tensor) -> float:
    """Return alpha of lambda_i ~ i^-alpha, fitted to the logarithms; alpha-ReQ finds values near 1 best.

    Weighted least squares over the ranks 4 to 100, a rank's weight 1 / i: the paper names neither, its code has both.

    Args:
        eigenvalues: of the covariance, falling; zeros are left out.

    Returns:
        alpha, or NaN with fewer than three eigenvalues to fit.

    Source: Agrawal et al., NeurIPS 2022.
    """
    fitted = eigenvalues[POWER_LAW_RANKS.start - 1 : POWER_LAW_RANKS.stop - 1]
    fitted = fitted[fitted != 0]
    if len(fitted) < 3:
        return math.nan
    ranks = POWER_LAW_RANKS.start + torch.arange(len(fitted), dtype=torch.float64)
    weights = (1 / ranks) / (1 / ranks).sum()
    x = ranks.log() - weights @ ranks.log()
    return -float((weights * x) @ fitted.log() / ((weights * x) @ x))


def mean_cosine(samples: Tensor) -> float:
    """Return the mean cosine similarity of distinct samples, from the sum of the N unit vectors u: (|sum u|^2 - N) /
    (N (N - 1)).

    Args:
        samples: (N, D), N >= 2; a sample of norm 0 has cosine 0 with every other.

    Returns:
        In [-1 / (N - 1), 1]; 1 when all samples point the same way.
    """
    units = torch.nn.functional.normalize(_exact(samples), dim=1)
    num = len(units)
    return float((units.sum(0).square().sum() - units.square().sum()) / (num * (num - 1)))


def lidar(views: Tensor) -> float:
    """LiDAR: how many directions tell images apart, measured in units of how far views of one image scatter.

    exp(entropy) of the scaled eigenvalues of W^-1/2 B W^-1/2, with B the covariance of the n class means and W the
    mean covariance within classes plus delta I. The paper's text gives delta no value; here it is 1e-4 of the mean
    variance within classes, so that the scale of the samples does not matter. It is at most n - 1, so n should exceed
    D, and views that are noise alone keep eigenvalues of about 1 / q: compare at equal n and q.

    Args:
        views: (n, q, D), q >= 2 views of each of n images.

    Returns:
        In [1, min(n - 1, D)]; NaN if the views of an image never differ.

    Source: Thilak et al., arXiv 2312.04000, equations 1 to 4; q 50 there, and 10 within a percent of that.
    """
    z = _exact(views)
    means, dim = z.mean(1), z.shape[2]
    spread = _deviations(z, means.unsqueeze(1)).flatten(0, 1)
    # Sums in place of means: the scales of both matrices cancel.
    within = spread.T @ spread
    ridge = LIDAR_RIDGE_FRAC * within.trace() / dim
    if not 0 < ridge < math.inf:
        return math.nan
    factor = torch.linalg.cholesky(within + ridge * torch.eye(dim, dtype=z.dtype))
    # With W = L L^T, the eigenvalues of L^-1 B L^-T are those of W^-1/2 B W^-1/2.
    whitened = torch.linalg.solve_triangular(factor, _deviations(means, means.mean(0)).T, upper=False)
    return effective_rank(_gram_eigenvalues(whitened))


def slice_epps_pulley(samples: Tensor, directions: Tensor, *, standardised: bool = False) -> Tensor:
    """Epps-Pulley statistic of every slice against N(0, 1), with the grid of the loss.

    Args:
        samples: (N, D).
        directions: (D, S), unit columns.
        standardised: give every slice mean 0 and variance 1 first, to test its shape alone.

    Returns:
        (S,) float32.
    """
    slices = samples.detach().float().cpu() @ directions
    return epps_pulley(standardise(slices) if standardised else slices)


def standardise(slices: Tensor) -> Tensor:
    """Give every column mean 0 and (biased) variance 1; one that varies by rounding alone becomes 0."""
    mean = slices.mean(-2, keepdim=True)
    std = (slices - mean).square().mean(-2, keepdim=True).sqrt()
    flat = std <= ROUNDING * mean.abs()
    return torch.where(flat, 0.0, (slices - mean) / std)


def _exact(samples: Tensor) -> Tensor:
    return samples.detach().double().cpu()


def _deviations(z: Tensor, mean: Tensor) -> Tensor:
    """Return z - mean, or zeros where that is rounding: of a collapsed network it is noise, which looks isotropic."""
    deviations = z - mean
    return torch.zeros_like(z) if deviations.norm() <= ROUNDING * z.norm() else deviations


def _smaller_gram(z: Tensor) -> Tensor:
    return z.T @ z if z.shape[1] <= z.shape[0] else z @ z.T


def _gram_eigenvalues(z: Tensor) -> Tensor:
    """Return the min(N, D) squared singular values, falling; what rounding leaves of a zero is set to 0."""
    gram = _smaller_gram(z)
    if not gram.isfinite().all():
        return torch.full((len(gram),), math.nan, dtype=z.dtype)
    values = torch.linalg.eigvalsh(gram).flip(0)
    return torch.where(values > values[0] * len(values) * torch.finfo(z.dtype).eps, values, 0.0)
