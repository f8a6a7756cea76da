"""JEPA-SCORE: how typical a sample is to an encoder, from the singular values of its input Jacobian.

score(x) = sum_k log max(sigma_k(J(x)), eps). It is the log-density of x up to a constant as far as embeddings have a
constant density (`pipeline.experiments.known_density` shows when they have). High is typical, low is rare.

Legend: B samples of P numbers each (3 H W of an image), D embedding.

Source: arXiv 2510.05949.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from pipeline.density.jacobian import Jacobians, Mode, jacobians
from pipeline.runtime.errors import UserError

EPS = 1e-6  # of the paper
GRAM_COLUMNS = 1024  # summed at a time, so that the copy in double precision stays small


def jepa_score(
    encoder: nn.Module, images: Tensor, *, mode: Mode = "auto", eps: float = EPS, chunk: int | None = None
) -> Tensor:
    """Return the exact score of every sample.

    float32 Jacobians are multiplied out in float64: squaring costs half of its 53 bits, which leaves more than the 24
    that the Jacobian has. So singular values below about 1e-7 of the largest are rounding, by this route as by any
    other from float32. An encoder of lower rank has such; they cost nothing where they stay below eps (largest singular
    value up to about 10). Where they do not, convert encoder and images to float64: that route never squares.

    Args:
        encoder: (B, 3, H, W) -> (B, D), in evaluation mode; unchanged.
        images: (B, 3, H, W) as the encoder wants them normalised, or (B, ...) for encoders of other things; float32
            or float64.
        mode: "reverse" takes D backward passes, "forward" P forward passes; "auto" whichever are fewer.
        eps: floor of the singular values, > 0.
        chunk: (sample, direction) pairs of one pass, >= 1; None: by the size of the images. It bounds memory and
            changes no score by more than rounding.

    Returns:
        (B,) float64, on the images' device.

    Raises:
        UserError: an encoder in training mode, samples that interact, a shape, number or dtype that does not fit,
            or mode "forward" where an operation of the encoder has none.
    """
    _check_eps(eps)
    return torch.cat([_log_sums(block, eps) for block in jacobians(encoder, images, mode=mode, chunk=chunk)])


def jepa_score_sketch(
    encoder: nn.Module, images: Tensor, *, num_sketches: int, seed: int, eps: float = EPS, chunk: int | None = None
) -> Tensor:
    """Return an estimate of the score from a few products with the Jacobian, which mostly keeps the ranking.

    Outputs with a gradient of zero are counted exactly; each stands for log eps. Of the others the log-volume along
    random orthonormal directions, the same for all samples, is scaled to their number. It takes num_sketches + 2
    backward passes instead of D. Of the estimators that benchmarks.density compares it ranks best on average, and it
    fails where samples differ in the rank of their Jacobians in another way than by dead outputs. Its scale is not that
    of the exact score, unless num_sketches covers all living outputs: then it is the same.

    Args:
        encoder: as for `jepa_score`.
        images: as for `jepa_score`.
        num_sketches: random output directions, >= 1; D and more are all of them.
        seed: of the directions, >= 0.
        eps: floor of the singular values, > 0.
        chunk: as for `jepa_score`.

    Returns:
        (B,) float64, on the images' device.

    Raises:
        UserError: as for `jepa_score`.
    """
    _check_eps(eps)
    if num_sketches < 1:
        raise UserError(f"num_sketches must be >= 1, got {num_sketches}")
    blocks = jacobians(encoder, images, chunk=chunk, num_directions=num_sketches, seed=seed)
    return torch.cat([_log_sums(block, eps) for block in blocks])


def _log_sums(block: Jacobians, eps: float) -> Tensor:
    """Return the log-sums (B,): what was left out counts as the mean of what was taken, rows of zeros as log eps."""
    rows, num_living, num_values = block
    num_taken = min(rows.shape[1], num_values)
    taken = _singular_values(rows).clamp_min(eps).log().sum(1)
    living = num_living.clamp(num_taken, num_values)
    return taken * living.double() / max(num_taken, 1) + (num_values - living) * math.log(eps)


def _singular_values(matrices: Tensor) -> Tensor:
    """Return singular values (B, min(R, P)) in float64 of matrices (B, R, P); see `jepa_score` for their accuracy."""
    if matrices.dtype == torch.float64:
        return torch.linalg.svdvals(matrices)
    wide = matrices if matrices.shape[1] <= matrices.shape[2] else matrices.mT
    gram = torch.zeros(len(wide), wide.shape[1], wide.shape[1], dtype=torch.float64, device=wide.device)
    for part in wide.split(GRAM_COLUMNS, dim=2):
        columns = part.double()
        gram.baddbmm_(columns, columns.mT)
    return torch.linalg.eigvalsh(gram).clamp_min(0).sqrt()


def _check_eps(eps: float) -> None:
    if not 0 < eps < math.inf:
        raise UserError(f"eps must be > 0 and finite, got {eps}")
