"""How far images lie from the training images, by distance: nearest neighbours and fitted Gaussians.

Legend: N images, R training (reference) images, D features, C classes, k neighbours. Everything is float64.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from sklearn.covariance import ledoit_wolf
from torch import Tensor

from pipeline.runtime.errors import UserError

BLOCK = 4096  # training images compared at a time: N x BLOCK distances in memory


def nearest_distance(images: Tensor, reference: Iterable[Tensor], k: int) -> Tensor:
    """Return the Euclidean distance of each image to its k-th nearest reference image.

    Args:
        images: (N, D).
        reference: blocks (r, D) that together are the R reference images; one block is in memory at a time.
        k: 1 to R.

    Returns:
        (N,) float64.

    Raises:
        UserError: if k > R.
    """
    images = images.double()
    own = images.square().sum(1, keepdim=True)
    nearest, num_seen = images.new_empty(len(images), 0), 0
    for block in reference:
        block = block.double()
        squared = own + block.square().sum(1) - 2 * images @ block.T
        nearest = torch.cat([nearest, squared], dim=1)
        nearest = nearest.topk(min(k, nearest.shape[1]), largest=False).values
        num_seen += len(block)
    if k > num_seen:
        raise UserError(f"density.k must be <= {num_seen}, the number of training images, got {k}")
    return nearest.amax(1).clamp_min(0).sqrt()


def knn_distance(embeddings: Tensor, reference: Tensor, k: int) -> Tensor:
    """Return the distance of each embedding to its k-th nearest reference embedding, all scaled to length 1.

    Args:
        embeddings: (N, D).
        reference: (R, D).
        k: 1 to R.

    Returns:
        (N,) float64 in [0, 2]: sqrt(2 - 2 cos), so it orders images as the cosine distance does.

    Source: Sun et al. 2022, arXiv 2204.06507.
    """
    images, others = (torch.nn.functional.normalize(values.double(), dim=1) for values in (embeddings, reference))
    return nearest_distance(images, others.split(BLOCK), k)


class Gaussian(NamedTuple):
    """mean (D,) and lower Cholesky factor (D, D) of the covariance."""

    mean: Tensor
    factor: Tensor

    def whiten(self, embeddings: Tensor) -> Tensor:
        """Return embeddings (N, D) in coordinates of mean 0 and covariance 1."""
        centred = (embeddings.double() - self.mean).T
        return torch.linalg.solve_triangular(self.factor, centred, upper=False).T

    def distance(self, embeddings: Tensor) -> Tensor:
        """Return the Mahalanobis distance (N,) of embeddings (N, D) from the mean."""
        return self.whiten(embeddings).norm(dim=1)


def fit_gaussian(embeddings: Tensor) -> Gaussian:
    """Fit mean and Ledoit-Wolf covariance to embeddings (R, D).

    Raises:
        UserError: if all embeddings are the same.
    """
    return Gaussian(embeddings.double().mean(0), torch.linalg.cholesky(shrunk_covariance(embeddings)))


def shrunk_covariance(embeddings: Tensor) -> Tensor:
    """Return the covariance (D, D) of embeddings (R, D), pulled towards a multiple of the identity.

    The share of the identity, of the same trace, is the one that is expected to come closest to the true covariance.

    Raises:
        UserError: if all embeddings are the same.

    Source: Ledoit & Wolf 2004, A well-conditioned estimator for large-dimensional covariance matrices.
    """
    centred = embeddings.double() - embeddings.double().mean(0)
    if not centred.square().sum() > 0:
        raise UserError("the training embeddings do not vary (within classes): collapsed, or one image a class")
    covariance, _ = ledoit_wolf(centred.cpu().numpy(), assume_centered=True)
    return torch.from_numpy(covariance).to(centred.device)


def relative_mahalanobis(embeddings: Tensor, reference: Tensor, labels: Tensor) -> Tensor:
    """Return the squared Mahalanobis distance from the nearest class minus that from all training images.

    Args:
        embeddings: (N, D).
        reference: (R, D) training embeddings.
        labels: (R,) int64 in 0..C-1, of the training images: this score knows the classes.

    Returns:
        (N,) float64. All classes have one covariance, that of the embeddings around their class means.

    Source: Ren et al. 2021, arXiv 2106.09022.
    """
    reference = reference.double()
    present, members = labels.unique(return_inverse=True)
    sums = reference.new_zeros(len(present), reference.shape[1]).index_add_(0, members, reference)
    means = sums / members.bincount()[:, None]
    within = Gaussian(reference.new_zeros(()), torch.linalg.cholesky(shrunk_covariance(reference - means[members])))
    to_class = torch.cdist(within.whiten(embeddings), within.whiten(means)).square().amin(1)
    return to_class - fit_gaussian(reference).distance(embeddings).square()
