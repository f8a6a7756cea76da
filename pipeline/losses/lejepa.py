"""The LeJEPA objective: prediction loss plus SIGReg, the sliced Epps-Pulley test of N(0, I).

Shapes: V views, B images, N samples of a batch (N = B), K projection dimension, S slices, T knots.

    EP(x)   = N * integral_{-t_max}^{t_max} |ecf(t) - exp(-t^2/2)|^2 exp(-t^2/2) dt,   ecf(t) = mean_j exp(i t x_j)
    SIGReg  = mean over S random unit directions a of EP(projections @ a)
    LeJEPA  = (1 - lambda) * mean (centre - projection)^2 + lambda * mean over views of SIGReg(view)

Source: Balestriero & LeCun, "LeJEPA", arXiv 2511.08544, section 4 and Algorithms 1 and 2.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from pipeline.core.distributed.collectives import mean_over_ranks, world_size
from pipeline.core.pinned import to_device
from pipeline.losses.blocks import Grid, Inner, PerColumn, SlicedMean


class LeJEPALoss(NamedTuple):
    """The LeJEPA loss and its two parts, scalars: loss = (1 - lambda) * pred_loss + lambda * sigreg_loss."""

    loss: Tensor
    pred_loss: Tensor
    sigreg_loss: Tensor


def random_directions(
    dim: int,
    num_slices: int,
    *,
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Draw directions uniformly on the unit sphere: normalised Gaussian vectors.

    They are drawn and normalised in float32 where the generator lives (the CPU without one) and then moved, so
    that a CPU generator gives the same directions whatever `device` is.

    Args:
        dim: K >= 1, the dimension of the projections.
        num_slices: S >= 1, how many directions.
        generator: the source of randomness; None takes torch's global CPU generator.
        device: where the result lies; None means where it was drawn.
        dtype: a floating dtype for the result; None means float32.

    Returns:
        (K, S); every column has norm 1.

    Raises:
        ValueError: `dim` or `num_slices` below 1.
    """
    if dim < 1 or num_slices < 1:
        raise ValueError(f"dim and num_slices must be >= 1, got dim={dim}, num_slices={num_slices}")
    drawn_on = generator.device if generator is not None else torch.device("cpu")
    directions = torch.randn(dim, num_slices, generator=generator, device=drawn_on, dtype=torch.float32)
    # Ten times faster than vector_norm over the first axis, and Gaussian squares neither overflow nor vanish.
    directions /= (directions * directions).sum(dim=0).sqrt_()
    target = torch.device(device) if device is not None else drawn_on
    return to_device(directions, target).to(dtype or torch.float32)


def directions_for_step(
    seed: int,
    step: int,
    dim: int,
    num_slices: int,
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Draw the directions of one training step: a function of (seed, step) and the shape, of nothing else.

    All ranks and all devices get the same numbers (a CPU generator draws them), fresh ones at every step; a
    resumed run draws the ones that the uninterrupted run would have drawn. No global random state is read or changed.

    Args:
        seed: the run's seed, equal on every rank.
        step: the optimiser step, >= 0.
        dim: K >= 1.
        num_slices: S >= 1.
        device: where the result lies; None means the CPU.
        dtype: None means float32.

    Returns:
        (K, S); every column has norm 1.

    Raises:
        ValueError: `step` below 0, `dim` or `num_slices` below 1.
    """
    if step < 0:
        raise ValueError(f"step must be >= 0, got {step}")
    # Hashed, because seed + step would give run 1 at step 0 the directions of run 0 at step 1.
    digest = hashlib.blake2b(f"sigreg directions {seed} {step}".encode(), digest_size=8).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)
    return random_directions(dim, num_slices, generator=generator, device=device, dtype=dtype)


def epps_pulley(samples: Tensor, *, t_max: float = 3.0, num_knots: int = 17) -> Tensor:
    """Epps-Pulley statistic of each column of samples against N(0, 1), exact in value and gradient.

    The integral is the trapezoid rule on `num_knots` points of [0, t_max], doubled because the integrand is even.

    Args:
        samples: (..., N, S), floating; float16 and bfloat16 are computed in float32.
        t_max: upper end of the integration grid, > 0.
        num_knots: T >= 2 points on [0, t_max], both ends included.

    Returns:
        (..., S), float32, or float64 for float64 samples. With an initialised process group N is the global
        batch and every rank gets the same values (gradient convention: `pipeline.core.distributed.collectives`).

    Raises:
        ValueError: N < 2 (over all ranks), S < 1, a dtype that is not floating, or a grid out of range.
        RuntimeError: in the backward pass, when asked for a second derivative (create_graph=True).

    Source: Epps & Pulley, Biometrika 70 (1983); LeJEPA, section 4.
    """
    _check_batch("samples", samples, "(..., N, S)")
    x = _at_least_float32(samples)
    with _full_precision(x):
        return PerColumn.apply(x, _knots(t_max, num_knots))


def sigreg(projections: Tensor, directions: Tensor, *, t_max: float = 3.0, num_knots: int = 17) -> Tensor:
    """SIGReg: the Epps-Pulley statistic of projections @ directions, mean over slices (and leading axes).

    Same as epps_pulley(projections @ directions).mean(), without ever holding the (..., N, S) samples.

    Args:
        projections: (..., N, K), floating; float16 and bfloat16 are computed in float32. Leading axes (views) are
            tested one by one and averaged.
        directions: (K, S), unit columns, equal on every rank, fresh at every step (`directions_for_step`).
        t_max: upper end of the integration grid, > 0.
        num_knots: T >= 2 points on [0, t_max].

    Returns:
        A scalar, float32, or float64 for float64 projections. With an initialised process group N is the global
        batch and every rank gets the same value.

    Raises:
        ValueError: shapes that do not fit, N < 2, or a grid out of range.
        RuntimeError: in the backward pass, when asked for a second derivative (create_graph=True).

    Source: LeJEPA, Algorithm 1. It leaves t_max and T to the user; the defaults are its code's, not its text's [-5, 5].
    """
    _check_batch("projections", projections, "(..., N, K)")
    if directions.ndim != 2 or directions.shape[0] != projections.shape[-1] or directions.shape[1] < 1:
        expected = f"({projections.shape[-1]}, S) with S >= 1"
        raise ValueError(f"directions must be {expected} to fit the projections, got shape {tuple(directions.shape)}")
    z = _at_least_float32(projections)
    grid = _knots(t_max, num_knots)
    with _full_precision(z):
        return SlicedMean.apply(z, directions.to(z.dtype), grid)


def lejepa_loss(
    projections: Tensor,
    directions: Tensor,
    *,
    num_global: int,
    lamb: float,
    t_max: float = 3.0,
    num_knots: int = 17,
    statistic: Callable[[Tensor, Tensor], Tensor] | None = None,
    predictions: Tensor | None = None,
    centre: Tensor | None = None,
) -> LeJEPALoss:
    """LeJEPA loss of the projections of V views of B images.

    Conventions. loss = (1 - lambda) * pred + lambda * sigreg. The prediction loss is the *mean* over views, images and
    dimensions (the paper's equation 7 sums over dimensions, its code averages; the published lambdas belong to the
    code). The centre is the mean over the global views. SIGReg is taken of each view and then averaged. Gradients
    flow everywhere: there is no stop-gradient, teacher or predictor, unless `predictions` or `centre` bring one. With
    an initialised process group all three numbers are those of one process on the concatenated batch, and so are the
    parameter gradients once they are averaged over ranks, as DistributedDataParallel does
    (`pipeline.core.distributed.collectives`).

    Args:
        projections: (V, B, K), the global views first.
        directions: (K, S), unit columns, fresh at every step.
        num_global: how many of the V views are global, 1 to V.
        lamb: lambda in [0, 1].
        t_max: upper end of the integration grid, > 0.
        num_knots: T >= 2 points on [0, t_max].
        statistic: a replacement of `sigreg`, called as statistic(projections, directions) -> scalar
            (`pipeline.losses.univariate.statistic_by_name`); None means `sigreg` with t_max and num_knots.
        predictions: (V, B, K), what is pulled towards the centre instead of the projections (LeJEPA, Table 4).
        centre: (B, K), used instead of the mean over the global views (LeJEPA, Table 4: of an averaged encoder).

    Returns:
        LeJEPALoss(loss, pred_loss, sigreg_loss), scalars.

    Raises:
        ValueError: a shape, `num_global` or `lamb` out of range.
    """
    if projections.ndim != 3:
        raise ValueError(f"projections must be (V, B, K), got shape {tuple(projections.shape)}")
    if not 1 <= num_global <= projections.shape[0]:
        raise ValueError(f"num_global must be in [1, {projections.shape[0]}], the number of views; got {num_global}")
    if not 0.0 <= lamb <= 1.0:
        raise ValueError(f"lamb must be in [0, 1], got {lamb}")
    z = _at_least_float32(projections)
    target = z[:num_global].mean(0) if centre is None else centre
    pred_loss = mean_over_ranks((target - (z if predictions is None else predictions)).square())
    if statistic is None:
        sigreg_loss = sigreg(z, directions, t_max=t_max, num_knots=num_knots)
    else:
        sigreg_loss = statistic(z, directions)
    return LeJEPALoss((1 - lamb) * pred_loss + lamb * sigreg_loss, pred_loss, sigreg_loss)


@lru_cache(maxsize=16)
def _knots(t_max: float, num_knots: int) -> Grid:
    """Build the trapezoid rule on [0, t_max] and the statistic it makes of the sums of cosines and sines.

    Knot 0 is left out: there the empirical and the normal characteristic function are both 1.
    """
    if not 0 < t_max < math.inf:
        raise ValueError(f"t_max must be > 0 and finite, got {t_max}")
    if num_knots < 2:
        raise ValueError(f"num_knots must be >= 2, got {num_knots}")
    spacing = t_max / (num_knots - 1)
    t = torch.arange(1, num_knots, dtype=torch.float64) * spacing
    normal = torch.exp(-t.square() / 2)
    weight = 2 * spacing * normal
    weight[-1] /= 2
    targets = torch.cat([normal, torch.zeros_like(normal)])

    @lru_cache(maxsize=4)
    def constants(device: torch.device) -> tuple[Tensor, Tensor]:
        return targets.to(device), 2 * weight.repeat(2).to(device)

    def formula(sums: Tensor, num_samples: Tensor | int, inner: Inner = torch.linalg.vecdot) -> tuple[Tensor, Tensor]:
        targets, twice_weight = constants(sums.device)
        gap = sums * (1 / num_samples) - targets
        # N sum_k weight_k gap_k^2; the factor N cancels the 1 / N of the means in its derivative by the sums.
        derivative = twice_weight * gap
        return num_samples / 2 * inner(gap, derivative), derivative

    return Grid(spacing, num_knots - 1, formula)


def _check_batch(name: str, batch: Tensor, expected: str) -> None:
    if not batch.is_floating_point():
        raise ValueError(f"{name} must be floating, got {batch.dtype}")
    if batch.ndim < 2 or batch.numel() == 0:
        raise ValueError(f"{name} must be {expected}, no axis empty, got shape {tuple(batch.shape)}")
    if batch.shape[-2] < 2 and world_size() < 2:
        raise ValueError(f"{name} must have N >= 2 samples, got N = {batch.shape[-2]} in shape {tuple(batch.shape)}")


def _at_least_float32(tensor: Tensor) -> Tensor:
    return tensor if tensor.dtype in (torch.float32, torch.float64) else tensor.float()


def _full_precision(tensor: Tensor) -> AbstractContextManager:
    # Entering a context costs several microseconds, so it is entered only to leave one; so does `device.type`.
    device_type = "cpu" if tensor.is_cpu else tensor.device.type
    active = torch.is_autocast_enabled(device_type)
    return torch.autocast(device_type, enabled=False) if active else nullcontext()
