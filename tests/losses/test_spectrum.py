"""Claims about the facts of a spectrum:

1. Samples that do not vary have ranks of 0.
2. Ranks, isotropy, cosine and the eigenvalues equal plain numpy, for more samples than dimensions and fewer.
3. alpha-ReQ recovers the exponent of a power law from the ranks 4 to 100 and has no opinion on fewer than three.
4. LiDAR equals its formula, and ignores scale and noise of views.
5. Standardised slices forget mean and scale; the raw statistic does not.
6. What is not finite gives NaN, never an error.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from pipeline.core.seeds import generator
from pipeline.losses import spectrum
from pipeline.losses.lejepa import random_directions


def gaussian(num: int, dim: int, index: int = 0) -> torch.Tensor:
    return torch.randn(num, dim, generator=generator(0, "test", index))


def rankme(z: torch.Tensor) -> float:
    return spectrum.effective_rank(spectrum.singular_values(z))


# 1. Samples at a point


@pytest.mark.parametrize("value", [0.0, 0.1])
def test_samples_that_vary_by_rounding_alone(value):
    point = torch.full((1000, 7), value) * (1 + 1e-7 * gaussian(1000, 7))
    eigenvalues = spectrum.covariance_eigenvalues(point)
    assert spectrum.isotropy(point) == 0 and not eigenvalues.any()
    assert spectrum.stable_rank(eigenvalues) == 0 and spectrum.effective_rank(eigenvalues) == 0
    assert rankme(point) == pytest.approx(1 if value else 0, abs=1e-4)
    assert spectrum.mean_cosine(point) == pytest.approx(1 if value else 0)
    assert math.isnan(spectrum.alpha_req(eigenvalues)) and math.isnan(spectrum.lidar(point.reshape(250, 4, 7)))
    # All at one point: |ecf| is 1 at every knot, which costs about 0.4 N.
    slices = spectrum.slice_epps_pulley(point, torch.eye(7)[:, :1], standardised=True)
    assert slices.item() == pytest.approx(402, abs=1)


# 2. Plain references


@pytest.mark.parametrize(("num", "dim"), [(200, 24), (24, 200), (30, 30)])
def test_equal_to_numpy(num, dim):
    z = gaussian(num, dim) * torch.linspace(0.1, 3, dim) + 0.5
    x = z.double().numpy()
    sigma = np.linalg.svd(x, compute_uv=False)
    p = sigma / sigma.sum()
    eigenvalues = np.sort(np.linalg.eigvalsh(np.cov(x.T, bias=True)))[::-1]
    units = x / np.linalg.norm(x, axis=1, keepdims=True)
    cosines = [units[i] @ units[j] for i in range(num) for j in range(num) if i != j]

    np.testing.assert_allclose(spectrum.singular_values(z), sigma, rtol=1e-6)
    assert rankme(z) == pytest.approx(np.exp(-(p * np.log(p)).sum()), rel=1e-9)
    found = spectrum.covariance_eigenvalues(z)
    np.testing.assert_allclose(found, eigenvalues[: len(found)], rtol=1e-9, atol=1e-12)
    assert spectrum.isotropy(z) == pytest.approx(eigenvalues.sum() ** 2 / (dim * (eigenvalues**2).sum()), rel=1e-9)
    assert spectrum.stable_rank(found) == pytest.approx(eigenvalues.sum() / eigenvalues[0], rel=1e-9)
    assert spectrum.mean_cosine(z) == pytest.approx(np.mean(cosines), rel=1e-9)
    np.testing.assert_allclose(spectrum.norms(z), np.linalg.norm(x, axis=1))


# 3. alpha-ReQ


@pytest.mark.parametrize("alpha", [0.0, 0.7, 1.0, 2.5])
def test_exponent_of_a_power_law(alpha):
    law = torch.arange(1, 301, dtype=torch.float64).pow(-alpha)
    law[:3] *= 50  # ranks before the fourth and after the hundredth do not count
    law[100:] *= 1e-3
    assert spectrum.alpha_req(law) == pytest.approx(alpha, abs=1e-9)
    assert spectrum.alpha_req(law[:6]) == pytest.approx(alpha, abs=1e-9)
    assert math.isnan(spectrum.alpha_req(law[:5])) and math.isnan(spectrum.alpha_req(torch.zeros(50)))


# 4. LiDAR


def planted(num: int, views: int, dim: int, strengths: list[float], noise: float) -> torch.Tensor:
    """Images that differ in the first dimensions, as strongly as told; views that differ in all."""
    images = torch.zeros(num, 1, dim)
    images[:, 0, : len(strengths)] = gaussian(num, len(strengths), 1) * torch.tensor(strengths)
    return images + noise * gaussian(num * views, dim, 2).unflatten(0, (num, views))


def plain_lidar(z: np.ndarray) -> float:
    num, views, dim = z.shape
    means = z.mean(1)
    between = np.cov(means.T)
    rest = (z - means[:, None]).reshape(-1, dim)
    within = rest.T @ rest / (num * (views - 1))
    within += 1e-4 * np.trace(within) / dim * np.eye(dim)
    values, vectors = np.linalg.eigh(within)
    root = vectors @ np.diag(values**-0.5) @ vectors.T
    p = np.linalg.eigvalsh(root @ between @ root).clip(min=0)
    p = p[p > 1e-12] / p.sum()
    return float(np.exp(-(p * np.log(p)).sum()))


@pytest.mark.parametrize("num", [60, 8])
def test_lidar_is_its_formula(num):
    z = planted(num, 5, 12, [3.0, 2.0, 1.0, 0.5], 0.7) + 4
    assert spectrum.lidar(z) == pytest.approx(plain_lidar(z.double().numpy()), rel=1e-8)
    assert spectrum.lidar(100 * z) == pytest.approx(spectrum.lidar(z), rel=1e-5)


# 5. Slices


def test_standardised_slices_forget_mean_and_scale():
    z, directions = gaussian(300, 6), random_directions(6, 20, generator=generator(0, "directions"))
    moved = 5 * z + 2
    shape = spectrum.slice_epps_pulley(z, directions, standardised=True)
    torch.testing.assert_close(
        spectrum.slice_epps_pulley(moved, directions, standardised=True), shape, rtol=1e-3, atol=1e-3
    )
    assert spectrum.slice_epps_pulley(moved, directions).min() > 10 * spectrum.slice_epps_pulley(z, directions).max()
    slices = spectrum.standardise(moved @ directions)
    torch.testing.assert_close(slices.mean(0), torch.zeros(20), atol=1e-5, rtol=0)
    torch.testing.assert_close(slices.var(0, unbiased=False), torch.ones(20))


# 6. What is not finite


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("everywhere", [True, False])
def test_what_is_not_finite_is_no_error(bad, everywhere):
    z = gaussian(40, 6)
    z[... if everywhere else 3] = bad
    eigenvalues = spectrum.covariance_eigenvalues(z)
    numbers = [
        *(spectrum.norms(z).mean().item(), rankme(z), spectrum.isotropy(z), spectrum.stable_rank(eigenvalues)),
        *(spectrum.alpha_req(eigenvalues), spectrum.mean_cosine(z), spectrum.lidar(z.reshape(10, 4, 6))),
        spectrum.slice_epps_pulley(z, torch.eye(6)).mean().item(),
    ]
    assert not any(math.isfinite(number) for number in numbers)
