"""Claims about novelty:

1. The AUROC is scikit-learn's, ties included, and that of swapped sides is its complement; its interval is DeLong's on
   the scale of log-odds, and does not shrink to a point where every pair is in order.
2. k-NN distances are those of a plain loop over all pairs, whatever the blocks.
3. The covariance is Ledoit and Wolf's; the Mahalanobis distance is that of numpy, and orders samples of a known
   Gaussian as its density does; embeddings that do not vary are refused.
4. The relative Mahalanobis distance is the nearest class's minus that of all classes together; labels may have gaps.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from pipeline.density.auroc import auroc
from pipeline.density.baselines import (
    fit_gaussian,
    nearest_distance,
    relative_mahalanobis,
    shrunk_covariance,
)
from pipeline.runtime.errors import UserError


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# 1. AUROC


@pytest.mark.parametrize("step", [1e-9, 0.5, 2.0, 100.0])  # of rounding: from no ties to nothing but ties
def test_area_is_that_of_scikit_learn(step):
    generator = np.random.default_rng(0)
    inside, outside = (np.round(generator.normal(mean, 1, num) / step) for mean, num in ((0.7, 83), (0.0, 51)))
    expected = roc_auc_score([1] * 83 + [0] * 51, np.concatenate([inside, outside]))
    assert auroc(inside, outside).value == pytest.approx(expected, abs=1e-12)
    assert auroc(outside, inside).value == pytest.approx(1 - expected, abs=1e-12)


def test_interval_is_that_of_delong():
    inside, outside = np.array([3.0, 1.0, 2.0, 2.0]), np.array([0.0, 2.0, 1.0])
    below = np.array([1, 0.5, (0.5 + 1 + 1) / 3, (0.5 + 1 + 1) / 3])
    below[1] = (1 + 0 + 0.5) / 3
    above = np.array([1, (0.5 + 0.5 + 1) / 4, (0.5 + 1 + 1 + 1) / 4])
    area = below.mean()
    error = np.sqrt(below.var(ddof=1) / 4 + above.var(ddof=1) / 3) / (area * (1 - area))
    found = auroc(inside, outside)
    assert found.value == pytest.approx(area)
    for end, sign in ((found.low, -1), (found.high, 1)):
        assert np.log(end / (1 - end)) == pytest.approx(np.log(area / (1 - area)) + sign * 1.959964 * error)


def test_interval_of_perfect_order_is_no_point():
    found = auroc(np.arange(10.0) + 100, np.arange(50.0))
    assert (found.value, found.high) == (1, 1)
    assert found.low == pytest.approx(0.025**0.1)  # ten right out of ten leave room for misses
    worst = auroc(np.arange(50.0), np.arange(10.0) + 100)
    assert (worst.value, worst.low, worst.high) == (0, 0, pytest.approx(1 - 0.025**0.1))


@pytest.mark.parametrize(
    ("inside", "outside", "message"),
    [([1.0], [1.0, 2.0], "2 images on each side, got 1 and 2"), ([1.0, np.nan], [1.0, 2.0], "finite scores")],
)
def test_what_has_no_area_is_refused(inside, outside, message):
    with pytest.raises(UserError, match=message):
        auroc(np.array(inside), np.array(outside))


# 2. Nearest neighbours


def test_distance_is_that_of_a_plain_loop():
    images, reference = random(7, 5), random(40, 5, seed=1)
    expected = [sorted(float((image - other).norm()) for other in reference)[2] for image in images]
    for block in (1, 3, 17, 40):
        found = nearest_distance(images, reference.split(block), 3)
        np.testing.assert_allclose(found, expected, rtol=1e-9)


# 3. Mahalanobis distance


def test_distance_is_that_of_numpy():
    embeddings, images = random(200, 5) @ random(5, 5, seed=2), random(9, 5, seed=1)
    centred = (images - embeddings.mean(0)).numpy()
    precision = np.linalg.inv(shrunk_covariance(embeddings).numpy())
    expected = np.sqrt(np.einsum("ni,ij,nj->n", centred, precision, centred))
    np.testing.assert_allclose(fit_gaussian(embeddings).distance(images), expected)


def test_equal_embeddings_are_refused():
    with pytest.raises(UserError, match="do not vary"):
        fit_gaussian(torch.ones(5, 3))


# 4. Relative Mahalanobis distance


def test_relative_distance_is_the_nearest_class_minus_all():
    labels = torch.arange(90) % 3
    offsets = 4 * random(3, 5, seed=3)
    reference, images = random(90, 5) + offsets[labels], random(8, 5, seed=1)
    means = torch.stack([reference[labels == label].mean(0) for label in range(3)])
    precision = torch.linalg.inv(shrunk_covariance(reference - means[labels]))
    gaps = images[:, None] - means
    expected = torch.einsum("nci,ij,ncj->nc", gaps, precision, gaps).amin(1)
    expected = expected - fit_gaussian(reference).distance(images).square()
    np.testing.assert_allclose(relative_mahalanobis(images, reference, labels), expected)
