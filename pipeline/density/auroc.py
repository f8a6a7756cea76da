"""Area under the ROC curve with its 95 % interval.

Legend: N in-domain images, M foreign images.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from pipeline.runtime.errors import UserError

Z = 1.959964  # 97.5 % quantile of the standard normal distribution


class Auroc(NamedTuple):
    """The area and the ends of its 95 % interval, all in [0, 1]."""

    value: float
    low: float
    high: float


def auroc(inside: np.ndarray, outside: np.ndarray) -> Auroc:
    """Return the chance that an in-domain image is more typical than a foreign one, ties a half, with its interval.

    Args:
        inside: (N,) typicality of in-domain images, high is typical; N >= 2.
        outside: (M,) of foreign images; M >= 2.

    Returns:
        The area; below 0.5 where foreign images are the more typical ones. Its 95 % interval is DeLong's, taken on the
        scale of log-odds, which keeps it in [0, 1]; each image is one independent draw of its own set, so nothing is
        said of other training seeds. Where the variance is estimated as zero (no pair, or every pair, in the wrong
        order) the interval ends where as good a sample would still have a chance of 2.5 %: 1 - 0.025^(1 / min(N, M))
        away, the case of foreign images that are either recognised always or never.

    Raises:
        UserError: for fewer than two images on a side, or scores that are not finite.

    Source: DeLong, DeLong & Clarke-Pearson 1988, with the placements of Sun & Xu 2014.
    """
    inside, outside = np.asarray(inside, np.float64), np.asarray(outside, np.float64)
    if min(len(inside), len(outside)) < 2:
        raise UserError(f"an AUROC needs 2 images on each side, got {len(inside)} and {len(outside)}")
    if not (np.isfinite(inside).all() and np.isfinite(outside).all()):
        raise UserError("an AUROC needs finite scores, got NaN or infinite ones")
    below = placements(inside, outside)
    value = float(below.mean())
    variance = below.var(ddof=1) / len(inside) + placements(outside, inside).var(ddof=1) / len(outside)
    if variance == 0:
        reach = 1 - 0.025 ** (1 / min(len(inside), len(outside)))
        return Auroc(value, max(0.0, value - reach), min(1.0, value + reach))
    log_odds = np.log(value / (1 - value))
    reach = Z * np.sqrt(variance) / (value * (1 - value))
    low, high = 1 / (1 + np.exp(-(log_odds + np.array([-reach, reach]))))
    return Auroc(value, float(low), float(high))


def placements(scores: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return, for each of scores (N,), the share of others (M,) below it, ties a half; (N,) in [0, 1]."""
    ordered = np.sort(others)
    below, up_to = (np.searchsorted(ordered, scores, side=side) for side in ("left", "right"))
    return (below + up_to) / (2 * len(others))
