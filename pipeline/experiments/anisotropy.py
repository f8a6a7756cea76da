"""Bias and variance of linear and logistic probes on isotropic and anisotropic 2-D embeddings of equal total variance.

Labels of fixed embeddings are drawn again and again, a probe is fitted to each draw, and the spread of the fitted
coefficients around their mean (variance) and of the mean around the truth (bias) is what the embeddings' shape causes.

Legend: N samples, R draws of the labels. Coefficients are (2,); embeddings have covariance diag(2k, 2) / (1 + k) with
condition number k, so total variance 2 for every k.

Source: LeJEPA, section 3 and figures 3, 17, 18 (OLS, ridge and logistic probes).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from pipeline.core.seeds import generator
from pipeline.experiments.settings import check_distinct, check_number, check_whole
from pipeline.runtime.errors import UserError

PROBES = ("OLS", "ridge", "logistic")
NEWTON_STEPS = 100
MIN_LOGISTIC_RIDGE = 1e-6  # with separable labels and less, the equations of Newton's method are singular in float64


@dataclass(frozen=True)
class Settings:
    """Section `anisotropy` of paper/figure3/params.yaml.

    Args:
        condition_numbers: largest over smallest variance of the embeddings, rising from 1 (isotropic).
        num_samples: N >= 4.
        num_draws: R >= 2 draws of the labels of the same embeddings.
        num_seeds: >= 2 draws of embeddings, true coefficients and noise.
        coefficient_norm: norm of the true coefficients, > 0.
        label_std: standard deviation of the noise on the labels of OLS and ridge, > 0.
        ridge: penalty of ridge regression, > 0.
        logistic_ridge: penalty of logistic regression, > MIN_LOGISTIC_RIDGE.
    """

    condition_numbers: tuple[float, ...]
    num_samples: int
    num_draws: int
    num_seeds: int
    coefficient_norm: float
    label_std: float
    ridge: float
    logistic_ridge: float

    def __post_init__(self) -> None:
        """Check every value."""
        check_whole("anisotropy.num_samples", self.num_samples, 4)
        check_whole("anisotropy.num_draws", self.num_draws, 2)
        check_whole("anisotropy.num_seeds", self.num_seeds, 2)
        for name in ("coefficient_norm", "label_std", "ridge"):
            check_number(f"anisotropy.{name}", getattr(self, name), above=0)
        check_number("anisotropy.logistic_ridge", self.logistic_ridge, above=MIN_LOGISTIC_RIDGE)
        check_distinct("anisotropy.condition_numbers", self.condition_numbers)
        for value in self.condition_numbers:
            check_number("anisotropy.condition_numbers", value, above=0)
        numbers = list(self.condition_numbers)
        if numbers[0] != 1 or numbers != sorted(numbers) or len(numbers) < 2:
            raise UserError(f"anisotropy.condition_numbers must rise from 1 to another number, got {numbers}")


class Spread(NamedTuple):
    """What R fits of one probe to the same embeddings show.

    Attributes:
        squared_bias: |mean - truth|^2, less the part that R draws leave by chance (so it may be below 0).
        variance: trace of the covariance of the coefficients.
        direction_std_deg: root mean square angle to their mean direction: how much the decision boundary turns.
    """

    squared_bias: float
    variance: float
    direction_std_deg: float


class Row(NamedTuple):
    """One probe on the embeddings of one seed; the closed forms are None for the logistic probe, which has none."""

    condition_number: float
    probe: str
    seed: int
    squared_bias: float
    squared_bias_closed_form: float | None
    variance: float
    variance_closed_form: float | None
    direction_std_deg: float


class Fits(NamedTuple):
    """The fits of one probe: embeddings (N, 2), coefficients (R, 2), true coefficients (2,)."""

    embeddings: Tensor
    coefficients: Tensor
    truth: Tensor


def isotropic_embeddings(num_samples: int, draws: torch.Generator) -> Tensor:
    """Draw (N, 2) float64 Gaussian embeddings and whiten them: mean 0 and covariance I, of the sample itself."""
    z = torch.randn(num_samples, 2, generator=draws, dtype=torch.float64)
    z = z - z.mean(0)
    factor = torch.linalg.cholesky(z.T @ z / num_samples)
    return torch.linalg.solve_triangular(factor.T, z, upper=True, left=False)


def stretch(embeddings: Tensor, condition_number: float) -> Tensor:
    """Give isotropic (N, 2) embeddings the covariance diag(2k, 2) / (1 + k), of the same trace."""
    variances = torch.tensor([condition_number, 1.0], dtype=embeddings.dtype) * 2 / (1 + condition_number)
    return embeddings * variances.sqrt()


def linear_probe(embeddings: Tensor, labels: Tensor, ridge: float) -> Tensor:
    """Fit min |Z b - y|^2 + ridge |b|^2 to each draw of the labels; 0 is ordinary least squares.

    Args:
        embeddings: Z, (N, 2).
        labels: (R, N), real.
        ridge: penalty, >= 0.

    Returns:
        (R, 2).
    """
    return torch.linalg.solve(_penalised_gram(embeddings, ridge), embeddings.T @ labels.T).T


def linear_closed_form(embeddings: Tensor, truth: Tensor, label_std: float, ridge: float) -> tuple[float, float]:
    """Return squared bias and variance of `linear_probe` over all draws of labels Z b + label_std * noise.

    With G = Z^T Z and A = G + ridge I: bias = -ridge A^-1 b, covariance = label_std^2 A^-1 G A^-1, which without
    a penalty are 0 and label_std^2 (Z^T Z)^-1.
    """
    inverse = torch.linalg.inv(_penalised_gram(embeddings, ridge))
    bias = -ridge * inverse @ truth
    covariance = label_std**2 * inverse @ embeddings.T @ embeddings @ inverse
    return bias.square().sum().item(), covariance.trace().item()


def logistic_probe(embeddings: Tensor, labels: Tensor, ridge: float) -> Tensor:
    """Fit logistic regression without intercept to each draw of the labels, by Newton's method on all draws at once.

    Minimises sum log(1 + exp(-+ z b)) + ridge / 2 |b|^2: LogisticRegression(C=1 / ridge) of scikit-learn.

    Args:
        embeddings: (N, 2).
        labels: (R, N), 0 or 1.
        ridge: penalty, > 0.

    Returns:
        (R, 2).

    Raises:
        UserError: if the steps do not become small, as with separable labels and next to no penalty.
    """
    fitted = embeddings.new_zeros(len(labels), 2)
    outer = embeddings[:, :, None] * embeddings[:, None, :]
    penalty = ridge * torch.eye(2, dtype=embeddings.dtype)
    for _ in range(NEWTON_STEPS):
        probability = torch.sigmoid(fitted @ embeddings.T)
        slope = (probability - labels) @ embeddings + ridge * fitted
        curvature = torch.einsum("rn,nij->rij", probability * (1 - probability), outer) + penalty
        step = torch.linalg.solve(curvature, slope)
        fitted = fitted - step
        if step.abs().max() < 1e-9:
            return fitted
    raise UserError(
        f"anisotropy.logistic_ridge must be large enough for Newton's method, got {ridge:g}: no convergence in "
        f"{NEWTON_STEPS} steps; raise it or anisotropy.num_samples"
    )


def spread(coefficients: Tensor, truth: Tensor) -> Spread:
    """Estimate bias, variance and turn of the direction from (R, 2) coefficients around the true (2,)."""
    mean, variance = coefficients.mean(0), coefficients.var(0).sum().item()
    squared_bias = (mean - truth).square().sum().item() - variance / len(coefficients)
    angles = torch.atan2(coefficients[:, 1], coefficients[:, 0])
    centre = torch.atan2(angles.sin().mean(), angles.cos().mean())
    turns = torch.remainder(angles - centre + math.pi, 2 * math.pi) - math.pi
    return Spread(squared_bias, variance, math.degrees(turns.square().mean().sqrt().item()))


def fit_probes(seed: int, condition_number: float, settings: Settings) -> dict[str, Fits]:
    """Fit every probe to R draws of the labels of one seed's embeddings.

    Embeddings before stretching, true direction and noise depend on the seed alone: condition numbers are compared
    on the same draws. The true direction is uniform; labels are Z b + noise, or 1 with probability sigmoid(Z b).
    """
    draws = generator(seed, "anisotropy")
    z = stretch(isotropic_embeddings(settings.num_samples, draws), condition_number)
    angle = 2 * math.pi * torch.rand((), generator=draws, dtype=torch.float64)
    truth = settings.coefficient_norm * torch.stack([angle.cos(), angle.sin()])
    noise = torch.randn(settings.num_draws, settings.num_samples, generator=draws, dtype=torch.float64)
    chance = torch.rand(settings.num_draws, settings.num_samples, generator=draws, dtype=torch.float64)
    values = z @ truth + settings.label_std * noise
    classes = (chance < torch.sigmoid(z @ truth)).to(z.dtype)
    return {
        "OLS": Fits(z, linear_probe(z, values, 0.0), truth),
        "ridge": Fits(z, linear_probe(z, values, settings.ridge), truth),
        "logistic": Fits(z, logistic_probe(z, classes, settings.logistic_ridge), truth),
    }


def measure(settings: Settings) -> list[Row]:
    """Return bias and variance of every probe, condition number and seed."""
    rows = []
    for condition_number in settings.condition_numbers:
        for seed in range(settings.num_seeds):
            for probe, fits in fit_probes(seed, condition_number, settings).items():
                found = spread(fits.coefficients, fits.truth)
                bias, variance = _closed_form(probe, fits, settings)
                measured = found.squared_bias, bias, found.variance, variance, found.direction_std_deg
                rows.append(Row(condition_number, probe, seed, *measured))
    return rows


def _closed_form(probe: str, fits: Fits, settings: Settings) -> tuple[float | None, float | None]:
    if probe == "logistic":
        return None, None
    ridge = settings.ridge if probe == "ridge" else 0.0
    return linear_closed_form(fits.embeddings, fits.truth, settings.label_std, ridge)


def _penalised_gram(embeddings: Tensor, ridge: float) -> Tensor:
    return embeddings.T @ embeddings + ridge * torch.eye(2, dtype=embeddings.dtype)
