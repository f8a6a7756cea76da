"""Probes on frozen features: linear (all learning rates at once), k-NN, few-shot ridge.

Legend: N images, D feature dimension, C classes, M learning rates. Accuracies are fractions in [0, 1].
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.errors import UserError
from pipeline.schedule import lr_factor
from pipeline.seeds import generator

# A feature that is constant on the training set must not be divided by zero.
MIN_STD = 1e-6
# Test images a block, so that the similarity matrix stays in memory: 1024 x 1e6 float32 is 4 GB.
KNN_BLOCK = 1024


class Split(NamedTuple):
    """Features (N, D) float32 and labels (N,) int64."""

    features: Tensor
    labels: Tensor


class LinearResult(NamedTuple):
    """Test accuracy, the learning rate chosen on held-out training images, and its accuracy there."""

    top1: float
    lr: float
    holdout_top1: float


def standardise(reference: Tensor, *features: Tensor) -> list[Tensor]:
    """Shift and scale each dimension to mean 0 and standard deviation 1 over `reference` (N, D); needs no labels."""
    mean, std = reference.mean(0), reference.std(0, correction=0).clamp_min(MIN_STD)
    return [(values - mean) / std for values in features]


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
    order = torch.randperm(len(labels), generator=generator(seed, "holdout"))
    fit, held = [], []
    for label in labels.unique().tolist():
        members = order[labels[order] == label]
        if len(members) < 2:
            raise UserError(
                f"class {label} has one training image, so none can be held out to tune the linear probe; "
                "add images or remove the class"
            )
        num_held = min(max(round(frac * len(members)), 1), len(members) - 1)
        held.append(members[:num_held])
        fit.append(members[num_held:])
    return torch.cat(fit), torch.cat(held)


def linear_probe(
    train: Split,
    test: Split,
    *,
    num_classes: int,
    learning_rates: list[float],
    weight_decay: float,
    epochs: int,
    batch_size: int,
    holdout_frac: float,
    seed: int,
) -> LinearResult:
    """Train a linear classifier at every learning rate at once; choose on held-out training images; test once.

    AdamW with cosine decay on standardised features, as in section 2 of the paper facts (there LayerNorm or BatchNorm
    stands before the linear layer). After the choice the classifier is trained again on the whole training set.
    """
    fit, held = stratified_holdout(train.labels, holdout_frac, seed=seed)
    settings = {
        "num_classes": num_classes,
        "weight_decay": weight_decay,
        "epochs": epochs,
        "batch_size": batch_size,
        "seed": seed,
    }
    tuning = _fit_and_score(
        Split(train.features[fit], train.labels[fit]),
        Split(train.features[held], train.labels[held]),
        learning_rates=learning_rates,
        **settings,
    )
    best = int(tuning.argmax())
    final = _fit_and_score(train, test, learning_rates=[learning_rates[best]], **settings)
    return LinearResult(float(final[0]), learning_rates[best], float(tuning[best]))


def _fit_and_score(
    train: Split,
    test: Split,
    *,
    num_classes: int,
    learning_rates: list[float],
    weight_decay: float,
    epochs: int,
    batch_size: int,
    seed: int,
) -> Tensor:
    """Return the accuracy on `test` for each of M learning rates, (M,)."""
    x, x_test = standardise(train.features, train.features, test.features)
    num_images, dim = x.shape
    weights = [nn.Parameter(x.new_zeros(num_classes, dim)) for _ in learning_rates]
    biases = [nn.Parameter(x.new_zeros(num_classes)) for _ in learning_rates]
    groups = [{"params": [w, b], "lr": lr} for w, b, lr in zip(weights, biases, learning_rates, strict=True)]
    adamw = torch.optim.AdamW(groups, weight_decay=weight_decay, fused=True)
    steps_per_epoch = -(-num_images // batch_size)
    step = 0
    for epoch in range(epochs):
        order = torch.randperm(num_images, generator=generator(seed, "linear probe", epoch))
        for members in order.split(batch_size):
            factor = lr_factor(step, num_steps=epochs * steps_per_epoch, num_warmup_steps=0, final_frac=0.0)
            for group, lr in zip(adamw.param_groups, learning_rates, strict=True):
                group["lr"] = lr * factor
            logits = F.linear(x[members], torch.cat(weights), torch.cat(biases))
            per_setting = logits.view(len(members) * len(learning_rates), num_classes)
            targets = train.labels[members].repeat_interleave(len(learning_rates))
            # Times M: the settings are independent, so each must see its own mean loss.
            loss = F.cross_entropy(per_setting, targets) * len(learning_rates)
            adamw.zero_grad()
            loss.backward()
            adamw.step()
            step += 1
    with torch.no_grad():
        logits = F.linear(x_test, torch.cat(weights), torch.cat(biases))
        predicted = logits.view(len(x_test), len(learning_rates), num_classes).argmax(-1)
    return (predicted == test.labels[:, None]).double().mean(0)


def knn_probe(train: Split, test: Split, *, num_classes: int, k: int, temperature: float) -> float:
    """Classify by the k most similar training images, weighted by exp(cosine similarity / temperature).

    Source: the weighted k-NN of Wu et al., arXiv 1805.01978, with k capped at the number of training images.
    """
    bank = F.normalize(train.features, dim=1)
    num_correct = 0
    for features, labels in zip(test.features.split(KNN_BLOCK), test.labels.split(KNN_BLOCK), strict=True):
        similarity, index = (F.normalize(features, dim=1) @ bank.T).topk(min(k, len(bank)), dim=1)
        votes = similarity.new_zeros(len(features), num_classes)
        votes.scatter_add_(1, train.labels[index], (similarity / temperature).exp())
        num_correct += int((votes.argmax(1) == labels).sum())
    return num_correct / len(test.labels)


def few_shot_probe(
    train: Split, test: Split, *, num_classes: int, shots: int, num_draws: int, ridge: float, seed: int
) -> tuple[float, float]:
    """Ridge regression to one-hot labels on `shots` images a class, solved exactly; mean and std over random draws.

    Features are standardised over the whole training set, which uses no labels. With X (n, D), n = shots * C, and Y
    centred one-hot labels, the dual form W = X^T (X X^T + p I)^{-1} Y is used for n <= D and the primal form
    W = (X^T X + p I)^{-1} X^T Y otherwise; both are the same W. p = ridge * D, the mean squared norm of a
    standardised feature vector.

    Args:
        train: images to draw from.
        test: images to classify.
        num_classes: C.
        shots: labelled images a class.
        num_draws: random subsets.
        ridge: relative penalty, > 0; fixed, since a few labels leave none to tune it on.
        seed: of the draws.

    Returns:
        Mean and standard deviation (population) of the test accuracy.

    Raises:
        UserError: if a class has fewer than `shots` training images.
    """
    smallest = int(train.labels.bincount(minlength=num_classes).min())
    if smallest < shots:
        raise UserError(
            f"probe.few_shot.shots asks for {shots} images a class but the smallest class has {smallest}; lower it"
        )
    x, x_test = standardise(train.features, train.features, test.features)
    penalty = ridge * x.shape[1]
    accuracies = []
    for draw in range(num_draws):
        order = torch.randperm(len(x), generator=generator(seed, f"{shots} shots", draw))
        members = torch.cat([order[train.labels[order] == label][:shots] for label in range(num_classes)])
        targets = F.one_hot(train.labels[members], num_classes).to(x.dtype) - 1 / num_classes
        logits = x_test @ ridge_weights(x[members], targets, penalty)
        accuracies.append(float((logits.argmax(1) == test.labels).double().mean()))
    spread = torch.tensor(accuracies, dtype=torch.float64)
    return float(spread.mean()), float(spread.std(correction=0))


def ridge_weights(x: Tensor, targets: Tensor, penalty: float) -> Tensor:
    """Return argmin_W |x W - targets|^2 + penalty |W|^2, x (n, D), targets (n, C), W (D, C), in the smaller system."""
    n, dim = x.shape
    if n <= dim:
        return x.T @ torch.linalg.solve(x @ x.T + penalty * torch.eye(n, dtype=x.dtype), targets)
    return torch.linalg.solve(x.T @ x + penalty * torch.eye(dim, dtype=x.dtype), x.T @ targets)


def evaluate(train: Split, test: Split, *, num_classes: int, settings: dict, seed: int) -> dict[str, float]:
    """Run every probe on one kind of features.

    Args:
        train: training split.
        test: test split; looked at once, after everything is chosen.
        num_classes: C.
        settings: the `probe` section of params.yaml.
        seed: of held-out part, batches and draws.

    Returns:
        linear_top1, linear_lr, linear_holdout_top1, knn_top1 and, for each k, linear_top1_<k>shot and its _std.
    """
    linear = linear_probe(
        train, test, num_classes=num_classes, holdout_frac=settings["holdout_frac"], seed=seed, **settings["linear"]
    )
    out = {
        "linear_top1": linear.top1,
        "linear_lr": linear.lr,
        "linear_holdout_top1": linear.holdout_top1,
        "knn_top1": knn_probe(train, test, num_classes=num_classes, **settings["knn"]),
    }
    few_shot = dict(settings["few_shot"])
    for shots in few_shot.pop("shots"):
        mean, std = few_shot_probe(train, test, num_classes=num_classes, shots=shots, seed=seed, **few_shot)
        out |= {f"linear_top1_{shots}shot": mean, f"linear_top1_{shots}shot_std": std}
    return out
