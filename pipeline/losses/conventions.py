"""What lambda means: five ways to weigh SIGReg, and the one number in which they compare.

    w    weight of the integral |ecf - exp(-t^2/2)|^2 exp(-t^2/2) dt, which is Epps-Pulley without its factor N,
         relative to the mean squared distance of the projections from the mean of their views

N images of the global batch, V views; `sig` is Epps-Pulley with its factor, `sig / N` the integral.

    name                loss                                                 w
    lejepa, lightly     (1 - l) * pred + l * sig, of each view               l N / (1 - l)      so does this project
    minimal_example     the same; the centre is the mean of all views        l N / (1 - l)
    stable_pretraining  pred + l * sig, of all V N projections together      l V N
    eb_jepa             mean |z - z'|^2 over pairs + l * sig / N             l (V - 1) / (2 V)  V = 2: l / 4

Pairs: the mean squared distance of two of V views is 2 V / (V - 1) times that from their mean.

Sources: LeJEPA, arXiv 2511.08544, and its minimal example; lightly, stable-pretraining and eb_jepa as of November 2026.
Known runs: lambda 0.05, N 512, w 27 (paper); 0.02, N 256, w 5.2 (minimal example); 0.02, V N 1024, w 20.5
(stable-pretraining); 10, w 2.5 (eb_jepa).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple


class Convention(NamedTuple):
    """A way to write the weight of SIGReg.

    Attributes:
        to_w: (lambda, N, V) -> w.
        from_w: (w, N, V) -> lambda.
    """

    to_w: Callable[[float, int, int], float]
    from_w: Callable[[float, int, int], float]


def weight(lamb: float, num_samples: int = 1) -> float:
    """Return w = lambda N / (1 - lambda), infinite for lambda 1; N is 1 for a regulariser without the factor N."""
    return lamb * num_samples / (1 - lamb) if lamb < 1 else math.inf


def _pairs(num_views: int) -> float:
    """Return the mean squared distance of two views over that from the mean of all."""
    if num_views < 2:
        raise ValueError(f"pairs of views need num_views >= 2, got {num_views}")
    return 2 * num_views / (num_views - 1)


_convex = Convention(lambda lamb, images, _: weight(lamb, images), lambda w, images, _: w / (images + w))
CONVENTIONS = {
    "lejepa": _convex,
    "lightly": _convex,
    "minimal_example": _convex,
    "stable_pretraining": Convention(
        lambda lamb, images, views: lamb * views * images, lambda w, images, views: w / (views * images)
    ),
    "eb_jepa": Convention(lambda lamb, _, views: lamb / _pairs(views), lambda w, _, views: w * _pairs(views)),
}


def convert(lamb: float, source: str, target: str, *, num_images: int, num_views: int) -> float:
    """Return the lambda of another convention that gives the same w.

    Args:
        lamb: lambda of the source.
        source: a key of CONVENTIONS.
        target: a key of CONVENTIONS.
        num_images: N, of the batch of all processes.
        num_views: V.

    Raises:
        ValueError: an unknown convention, or pairs of fewer than two views.
    """
    for name in (source, target):
        if name not in CONVENTIONS:
            raise ValueError(f"unknown convention {name!r}; known: {', '.join(CONVENTIONS)}")
    w = CONVENTIONS[source].to_w(lamb, num_images, num_views)
    return CONVENTIONS[target].from_w(w, num_images, num_views)
