"""Bias and variance of linear and logistic probes on isotropic and anisotropic 2-D embeddings of equal total variance.

Labels of fixed embeddings are drawn again and again, a probe is fitted to each draw, and the spread of the fitted
coefficients around their mean (variance) and of the mean around the truth (bias) is what the embeddings' shape causes.

Legend: N samples, R draws of the labels. Coefficients are (2,); embeddings have covariance diag(2k, 2) / (1 + k) with
condition number k, so total variance 2 for every k.

Source: LeJEPA, section 3 and figures 3, 17, 18 (OLS, ridge and logistic probes).
"""

from __future__ import annotations

import math
from itertools import product
from typing import NamedTuple

import torch
from pydantic import Field, field_validator
from torch import Tensor

from pipeline.catalogue.types import Distinct, Positive, PositiveAsWritten
from pipeline.catalogue.validation import Strict
from pipeline.core.seeds import generator
from pipeline.runtime.errors import UserError

PROBES = ("OLS", "ridge", "logistic")
NEWTON_STEPS = 100


class Settings(Strict):
    """Section `anisotropy` of paper/figure3/params.yaml."""

    condition_numbers: Distinct[PositiveAsWritten] = Field(
        description="largest over smallest variance of the embeddings, rising from 1 (isotropic)"
    )
    num_samples: int = Field(ge=4, description="N")
    num_draws: int = Field(ge=2, description="R, draws of the labels of the same embeddings")
    num_seeds: int = Field(ge=2, description="draws of embeddings, true coefficients and noise")
    coefficient_norm: Positive = Field(description="norm of the true coefficients")
    label_std: Positive = Field(description="standard deviation of the noise on the labels of OLS and ridge")
    ridge: Positive = Field(description="penalty of ridge regression")
    # With less and separable labels, the equations of Newton's method are singular in float64.
    logistic_ridge: float = Field(gt=1e-6, description="penalty of logistic regression")

    @field_validator("condition_numbers")
    @classmethod
    def _rising(cls, numbers: list[float]) -> list[float]:
        if numbers[0] != 1 or numbers != sorted(numbers) or len(numbers) < 2:
            raise ValueError(f"must rise from 1 to another number, got {numbers}")
        return numbers


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
    """R fits of one probe: embeddings (N, 2), coefficients (R, 2), true (2,), penalty (None: no closed form)."""

    embeddings: Tensor
    coefficients: Tensor
    truth: Tensor
    ridge: float | None


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
        "OLS": Fits(z, linear_probe(z, values, 0.0), truth, 0.0),
        "ridge": Fits(z, linear_probe(z, values, settings.ridge), truth, settings.ridge),
        "logistic": Fits(z, logistic_probe(z, classes, settings.logistic_ridge), truth, None),
    }


def measure(settings: Settings) -> list[Row]:
    """Return bias and variance of every probe, condition number and seed."""
    return [
        _row(probe, fits, condition_number, seed, settings.label_std)
        for condition_number, seed in product(settings.condition_numbers, range(settings.num_seeds))
        for probe, fits in fit_probes(seed, condition_number, settings).items()
    ]


def _row(probe: str, fits: Fits, condition_number: float, seed: int, label_std: float) -> Row:
    found = spread(fits.coefficients, fits.truth)
    bias, variance = None, None
    if fits.ridge is not None:
        bias, variance = linear_closed_form(fits.embeddings, fits.truth, label_std, fits.ridge)
    measured = (found.squared_bias, bias, found.variance, variance, found.direction_std_deg)
    return Row(condition_number, probe, seed, *measured)


def _penalised_gram(embeddings: Tensor, ridge: float) -> Tensor:
    return embeddings.T @ embeddings + ridge * torch.eye(2, dtype=embeddings.dtype)
