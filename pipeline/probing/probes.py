"""Probes on frozen features: linear (all settings at once), k-NN, few-shot ridge.

Legend: N images, D feature dimension, C classes, M settings of the linear probe. Accuracies are fractions in [0, 1].
Features and labels may be on any device, all on the same one.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.core.float64 import doubled
from pipeline.core.schedule import lr_factor
from pipeline.core.seeds import generator
from pipeline.data.strata import members_by_class
from pipeline.runtime.bars import DELAY_S, bar
from pipeline.runtime.errors import UserError
from pipeline.schema.probe import Linear, Probe

# A feature that is constant on the training set must not be divided by zero.
MIN_STD = 1e-6
# Test images a block, so that the similarity matrix stays in memory: 1024 x 1e6 float32 is 4 GB.
KNN_BLOCK = 1024


class Split(NamedTuple):
    """Features (N, D) float32 and labels (N,) int64."""

    features: Tensor
    labels: Tensor

    def part(self, members: Tensor) -> Split:
        """Return the images with these indices."""
        return Split(self.features[members], self.labels[members])


class LinearResult(NamedTuple):
    """Test accuracy, the setting chosen on held-out training images, and its accuracy there."""

    top1: float
    lr: float
    weight_decay: float
    holdout_top1: float


class FewShotResult(NamedTuple):
    """Mean and standard deviation (population) of the test accuracy over draws, and the labelled images of a draw."""

    top1: float
    std: float
    num_images: int


def standardise(reference: Tensor, *features: Tensor) -> list[Tensor]:
    """Shift and scale each dimension to mean 0 and standard deviation 1 over `reference` (N, D); needs no labels."""
    mean, std = reference.mean(0), reference.std(0, correction=0).clamp_min(MIN_STD)
    return [(values - mean).div_(std) for values in features]


def stratified_holdout(labels: Tensor, frac: float, *, seed: int) -> tuple[Tensor, Tensor]:
    """Split indices into fit and held-out parts, class by class.

    Args:
        labels: (N,) int64.
        frac: held-out part of each class, in (0, 1); at least one image a class stays on each side.
        seed: of the permutation.

    Returns:
        Two index tensors, disjoint, together all N.

    Raises:
        UserError: if a class has fewer than two images.
    """
    fit, held = [], []
    for members in members_by_class(labels, seed=seed, purpose="holdout"):
        if len(members) < 2:
            raise UserError(
                f"class {labels[members[0]]} has one training image, so none can be held out to tune the probe; "
                "add images or remove the class"
            )
        num_held = min(max(round(frac * len(members)), 1), len(members) - 1)
        held.append(members[:num_held])
        fit.append(members[num_held:])
    return torch.cat(fit), torch.cat(held)


def linear_probe(
    train: Split,
    test: Split,
    settings: Linear,
    *,
    num_classes: int,
    holdout_frac: float,
    seed: int,
) -> LinearResult:
    """Train a linear classifier at every setting at once; choose on held-out training images; test once.

    AdamW with cosine decay on standardised features, as in LeJEPA, arXiv 2511.08544 (there LayerNorm or BatchNorm
    stands before the linear layer). A setting is a pair of learning rate and weight decay; of equally good ones the
    first is taken. After the choice the classifier is trained again on the whole training set.
    """
    fit, held = stratified_holdout(train.labels, holdout_frac, seed=seed)
    grid = list(product(settings.learning_rates, settings.weight_decays))
    how = {"num_classes": num_classes, "epochs": settings.epochs, "batch_size": settings.batch_size, "seed": seed}
    tuning = _fit_and_score(train.part(fit), train.part(held), grid=grid, **how)
    best = int(tuning.argmax())
    final = _fit_and_score(train, test, grid=[grid[best]], **how)
    return LinearResult(float(final[0]), *grid[best], float(tuning[best]))


def _fit_and_score(
    train: Split,
    test: Split,
    *,
    num_classes: int,
    grid: list[tuple[float, float]],
    epochs: int,
    batch_size: int,
    seed: int,
) -> Tensor:
    """Return the accuracy on `test` for each of M pairs (learning rate, weight decay), (M,).

    All M classifiers are one weight tensor (M, C, D + 1), the bias last, for which the gradient of the cross-entropy is
    written out: one matrix product forwards and one back a step, whatever M is.
    """
    standardised = standardise(train.features, train.features, test.features)
    x, x_test = (functional.pad(features, (0, 1), value=1.0) for features in standardised)
    num_images, width = x.shape
    rates, decays = x.new_tensor(grid).T[:, :, None, None]
    weights = x.new_zeros(len(grid), num_classes, width)
    adamw = AdamW(weights)
    num_steps = epochs * -(-num_images // batch_size)
    for epoch in bar("linear probe", epochs, unit="epoch", delay_s=DELAY_S, iterable=range(epochs)):
        order = torch.randperm(num_images, generator=generator(seed, "linear probe", epoch))
        for members in order.to(x.device).split(batch_size):
            factor = lr_factor(adamw.step, num_steps=num_steps, num_warmup_steps=0, final_frac=0.0)
            batch = x[members]
            logits = (batch @ weights.flatten(0, 1).T).view(len(batch), *weights.shape[:2])
            error = logits.softmax(2)
            error.sub_(functional.one_hot(train.labels[members], num_classes)[:, None])
            gradient = (error.flatten(1).T @ batch).div_(len(batch)).view_as(weights)
            adamw.update(gradient, rates * factor, decays)
    logits = (x_test @ weights.flatten(0, 1).T).view(len(x_test), *weights.shape[:2])
    return doubled(logits.argmax(2) == test.labels[:, None]).mean(0)


class AdamW:
    """AdamW with a learning rate and a weight decay for each slice of one tensor; torch's takes one of each a tensor.

    Source: Loshchilov & Hutter, arXiv 1711.05101, with torch's constants (betas 0.9 and 0.999, epsilon 1e-8).
    """

    def __init__(self, weights: Tensor) -> None:
        """Start with zero moments; `weights` are changed in place."""
        self.weights, self.step = weights, 0
        self.mean, self.square = torch.zeros_like(weights), torch.zeros_like(weights)

    def update(self, gradient: Tensor, rates: Tensor, decays: Tensor) -> None:
        """Take a step; `rates` and `decays` broadcast against the weights."""
        self.step += 1
        self.mean.lerp_(gradient, 1 - 0.9)
        self.square.mul_(0.999).addcmul_(gradient, gradient, value=1 - 0.999)
        scale = (self.square / (1 - 0.999**self.step)).sqrt_().add_(1e-8)
        self.weights.mul_(1 - rates * decays)
        self.weights.sub_(scale.reciprocal_().mul_(self.mean).mul_(rates / (1 - 0.9**self.step)))


def knn_probe(train: Split, test: Split, *, num_classes: int, k: int, temperature: float) -> float:
    """Classify by the k most similar training images, weighted by exp(cosine similarity / temperature).

    Source: the weighted k-NN of Wu et al., arXiv 1805.01978, with k capped at the number of training images.
    """
    bank = functional.normalize(train.features, dim=1)
    num_correct = 0
    for features, labels in zip(test.features.split(KNN_BLOCK), test.labels.split(KNN_BLOCK), strict=True):
        similarity, index = (functional.normalize(features, dim=1) @ bank.T).topk(min(k, len(bank)), dim=1)
        weights, neighbours = (similarity / temperature).exp(), train.labels[index]
        votes = weights.new_zeros(len(features), num_classes)
        for rank in range(index.shape[1]):  # one a row at a time, so that CUDA adds in this order too
            votes.scatter_add_(1, neighbours[:, rank, None], weights[:, rank, None])
        num_correct += int((votes.argmax(1) == labels).sum())
    return num_correct / len(test.labels)


def few_shot_members(labels: Tensor, shots: int, *, seed: int, draw: int) -> Tensor:
    """Draw the indices of `shots` images a class, or of all images of a class that has fewer.

    Raises:
        UserError: if every class has fewer.
    """
    largest = int(labels.bincount().max())
    if largest < shots:
        raise UserError(
            f"probe.few_shot.shots asks for {shots} images a class but the largest class has {largest}; lower it"
        )
    by_class = members_by_class(labels, seed=seed, purpose=f"{shots} shots", draw=draw)
    return torch.cat([members[:shots] for members in by_class])


def few_shot_probe(
    train: Split, test: Split, *, num_classes: int, shots: int, num_draws: int, ridge: float, seed: int
) -> FewShotResult:
    """Ridge regression to one-hot labels on `shots` images a class, solved exactly, over random draws.

    Features are standardised over the whole training set, which uses no labels. With X (n, D), n = shots * C, and Y
    centred one-hot labels, the dual form W = X^T (X X^T + p I)^{-1} Y is used for n <= D and the primal form
    W = (X^T X + p I)^{-1} X^T Y otherwise; both are the same W. p = ridge * D, the mean squared norm of a
    standardised feature vector.

    The paper trains its linear probe on the few images instead. On trained features that was no better at 8 to 35 times
    the time; on strongly correlated ones (a random initialisation) a ridge of 1 is too strong, one of 0.1 is not
    (measured: reports/LOG.md, 2026-11-22).

    Args:
        train: images to draw from.
        test: images to classify.
        num_classes: C.
        shots: labelled images a class; a class with fewer gives all that it has.
        num_draws: random subsets.
        ridge: relative penalty, > 0; fixed, since a few labels leave none to tune it on.
        seed: of the draws.

    Raises:
        UserError: if every class has fewer than `shots` training images.
    """
    x, x_test = standardise(train.features, train.features, test.features)
    penalty = ridge * x.shape[1]
    accuracies = []
    for draw in bar(f"{shots}-shot probe", num_draws, unit="draw", delay_s=DELAY_S, iterable=range(num_draws)):
        members = few_shot_members(train.labels, shots, seed=seed, draw=draw).to(x.device)
        targets = functional.one_hot(train.labels[members], num_classes).to(x.dtype) - 1 / num_classes
        logits = x_test @ ridge_weights(x[members], targets, penalty)
        accuracies.append(float(doubled(logits.argmax(1) == test.labels).mean()))
    spread = torch.tensor(accuracies, dtype=torch.float64)
    return FewShotResult(float(spread.mean()), float(spread.std(correction=0)), len(members))


def ridge_weights(x: Tensor, targets: Tensor, penalty: float) -> Tensor:
    """Return argmin_W |x W - targets|^2 + penalty |W|^2, x (n, D), targets (n, C), W (D, C), in the smaller system."""
    n, dim = x.shape
    identity = torch.eye(min(n, dim), dtype=x.dtype, device=x.device)
    if n <= dim:
        return x.T @ torch.linalg.solve(x @ x.T + penalty * identity, targets)
    return torch.linalg.solve(x.T @ x + penalty * identity, x.T @ targets)


@dataclass(frozen=True)
class Task:
    """What a probe has to learn and how: C classes, the section `probe`, seed of held-out part, batches and draws."""

    num_classes: int
    settings: Probe
    seed: int


def evaluate(train: Split, test: Split, task: Task) -> dict[str, float]:
    """Run every probe on one kind of features.

    Args:
        train: training split.
        test: test split; looked at once, after everything is chosen.
        task: classes, settings, seed.

    Returns:
        linear_top1, linear_lr, linear_weight_decay, linear_holdout_top1, knn_top1 and, for each k, linear_top1_<k>shot,
        its _std and its _images, the number of labelled images used (less than k * C where a class has fewer than k).
    """
    settings, common = task.settings, {"num_classes": task.num_classes, "seed": task.seed}
    linear = linear_probe(train, test, settings.linear, holdout_frac=settings.holdout_frac, **common)
    out = {f"linear_{name}": value for name, value in linear._asdict().items()}
    out["knn_top1"] = knn_probe(train, test, num_classes=task.num_classes, **settings.knn.model_dump())
    few_shot = settings.few_shot
    for shots in few_shot.shots:
        how: dict[str, Any] = {"shots": shots, "num_draws": few_shot.num_draws, "ridge": few_shot.ridge}
        found = few_shot_probe(train, test, **how, **common)
        name = f"linear_top1_{shots}shot"
        out |= {name: found.top1, f"{name}_std": found.std, f"{name}_images": found.num_images}
    return out
