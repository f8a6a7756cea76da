"""Claims about probes:

1. Standardising shifts and scales each dimension of the reference; a constant one is not divided by zero.
2. The held-out part is a seeded, stratified part of the training set.
3. The linear probe is a plain loop; AdamW is torch's; settings trained at once are trained as if alone; the choice is
   the best on the held-out part.
4. k-NN equals a plain weighted vote.
5. Few-shot ridge is the closed form, primal and dual, as scikit-learn has it; draws are seeded and balanced; a class
   with fewer images than shots gives all of them, and the number used is reported.
6. The order of the test images changes nothing; the same seed gives the same numbers.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge

from pipeline.probing import probes
from pipeline.probing.probes import (
    AdamW,
    Split,
    Task,
    evaluate,
    few_shot_members,
    few_shot_probe,
    knn_probe,
    linear_probe,
    ridge_weights,
    standardise,
    stratified_holdout,
)
from pipeline.schema.probe import FewShot, Knn, Linear, Probe

NUM_CLASSES = 3
LINEAR = Linear(learning_rates=[1e-3, 1e-2, 0.1], weight_decays=[1e-6], epochs=15, batch_size=32)


def blobs(num: int, spread: float, seed: int = 0, dim: int = 6) -> Split:
    """Draw C Gaussian clouds around fixed centres, `num` images in random order."""
    random = torch.Generator().manual_seed(seed)
    labels = torch.arange(num)[torch.randperm(num, generator=random)] % NUM_CLASSES
    centres = torch.eye(NUM_CLASSES, dim) * 5
    return Split(centres[labels] + spread * torch.randn(num, dim, generator=random), labels)


def linear(train: Split, test: Split, seed: int = 0, **changes):
    settings = LINEAR.model_copy(update=changes)
    return linear_probe(train, test, settings, num_classes=NUM_CLASSES, holdout_frac=0.2, seed=seed)


# 1. Standardising


def test_standardise():
    reference, other = torch.randn(50, 4) * torch.tensor([1.0, 10.0, 0.1, 3.0]) + 7, torch.randn(5, 4)
    first, second = standardise(reference, reference, other)
    torch.testing.assert_close(first.mean(0), torch.zeros(4), atol=1e-4, rtol=0)
    torch.testing.assert_close(first.std(0, correction=0), torch.ones(4))
    wanted = (other.numpy() - reference.numpy().mean(0)) / reference.numpy().std(0)
    torch.testing.assert_close(second, torch.from_numpy(wanted), rtol=1e-4, atol=1e-4)


def test_a_constant_feature_stays_finite_and_harmless():
    train, test = blobs(120, 0.5), blobs(60, 0.5, seed=1)
    constant = torch.full((120, 1), 3.0)
    train, test = (Split(torch.cat((s.features, constant[: len(s.labels)]), 1), s.labels) for s in (train, test))
    assert standardise(train.features, test.features)[0][:, -1].abs().max() == 0
    assert linear(train, test).top1 == 1
    assert few_shot_probe(train, test, num_classes=3, shots=5, num_draws=2, ridge=1.0, seed=0).top1 == 1


# 2. Held-out part


@pytest.mark.parametrize("frac", [0.01, 0.2, 0.5, 0.99])
def test_holdout_is_a_stratified_partition(frac):
    labels = torch.cat([torch.full((num,), label) for label, num in enumerate([2, 10, 37])])
    labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))]
    fit, held = stratified_holdout(labels, frac, seed=0)
    assert sorted(torch.cat((fit, held)).tolist()) == list(range(len(labels)))
    for label, num in enumerate([2, 10, 37]):
        num_held = int((labels[held] == label).sum())
        assert num_held == min(max(round(frac * num), 1), num - 1)


# 3. Linear probe


def test_adamw_is_that_of_torch_for_every_slice():
    random = torch.Generator().manual_seed(0)
    start, rates, decays = torch.randn(4, 3, 5, generator=random), [0.1, 0.1, 1e-3, 0.0], [0.0, 2.0, 0.5, 1.0]
    ours = AdamW(start.clone())
    theirs = [torch.nn.Parameter(part.clone()) for part in start]
    groups = [{"params": [p], "lr": lr, "weight_decay": wd} for p, lr, wd in zip(theirs, rates, decays, strict=True)]
    reference = torch.optim.AdamW(groups)
    for step in range(1, 8):
        gradient = torch.randn(start.shape, generator=random)
        for parameter, part in zip(theirs, gradient, strict=True):
            parameter.grad = part.clone()
        for group, lr in zip(reference.param_groups, rates, strict=True):
            group["lr"] = lr / step
        reference.step()
        ours.update(gradient, torch.tensor(rates)[:, None, None] / step, torch.tensor(decays)[:, None, None])
    torch.testing.assert_close(ours.weights, torch.stack(list(theirs)).detach())
    assert torch.equal(ours.weights[3], start[3]) and ours.step == 7


def test_linear_probe_equals_a_plain_loop():
    train, test = blobs(100, 4.0), blobs(500, 4.0, seed=1)
    x, x_test = standardise(train.features, train.features, test.features)
    model = torch.nn.Linear(6, NUM_CLASSES)
    torch.nn.init.zeros_(model.weight)
    torch.nn.init.zeros_(model.bias)
    adamw = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.1)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(adamw, T_max=7)
    for _ in range(8):
        adamw.zero_grad()
        torch.nn.functional.cross_entropy(model(x), train.labels).backward()
        adamw.step()
        cosine.step()
    wanted = (model(x_test).argmax(1) == test.labels).double().mean()
    found = linear(train, test, learning_rates=[0.01], weight_decays=[0.1], epochs=8, batch_size=100).top1
    assert found == pytest.approx(wanted.item(), abs=1 / 500)


def test_the_choice_is_the_best_on_the_held_out_part():
    train, test = blobs(150, 4.0), blobs(900, 4.0, seed=1)
    fit, held = stratified_holdout(train.labels, 0.2, seed=0)
    rates, decays = [1e-5, 1e-2, 0.1], [0.0, 5.0]
    grid = [(lr, decay) for lr in rates for decay in decays]

    def alone(fitted: Split, scored: Split) -> list[float]:
        return [linear(fitted, scored, learning_rates=[lr], weight_decays=[decay]).top1 for lr, decay in grid]

    tuning, on_test = alone(train.part(fit), train.part(held)), alone(train, test)
    found = linear(train, test, learning_rates=rates, weight_decays=decays)
    assert found.holdout_top1 == pytest.approx(max(tuning), abs=2 / len(held)) and max(tuning) > min(tuning)
    chosen = grid.index((found.lr, found.weight_decay))
    assert chosen == tuning.index(max(tuning)) != on_test.index(max(on_test))
    assert found.top1 == on_test[chosen]


# 4. k-NN


def plain_knn(train: Split, test: Split, k: int, temperature: float) -> float:
    x, q = (s.features.double().numpy() for s in (train, test))
    similarity = (q / np.linalg.norm(q, axis=1, keepdims=True)) @ (x / np.linalg.norm(x, axis=1, keepdims=True)).T
    num_correct = 0
    for row, label in zip(similarity, test.labels.tolist(), strict=True):
        votes = np.zeros(NUM_CLASSES)
        for index in np.argsort(-row)[:k]:
            votes[train.labels[index]] += np.exp(row[index] / temperature)
        num_correct += votes.argmax() == label
    return num_correct / len(test.labels)


@pytest.mark.parametrize(("k", "temperature"), [(1, 0.07), (5, 0.07), (20, 0.07), (20, 1.0), (1000, 0.2)])
def test_knn_is_a_weighted_vote(monkeypatch, k, temperature):
    train, test = blobs(120, 4.0), blobs(200, 4.0, seed=1)
    found = knn_probe(train, test, num_classes=NUM_CLASSES, k=k, temperature=temperature)
    assert found == pytest.approx(plain_knn(train, test, k, temperature), abs=1e-12)
    monkeypatch.setattr(probes, "KNN_BLOCK", 33)
    assert knn_probe(train, test, num_classes=NUM_CLASSES, k=k, temperature=temperature) == found
    assert 0.4 < found < 1


# 5. Few-shot


@pytest.mark.parametrize(("n", "dim"), [(5, 12), (12, 12), (12, 5)])
def test_ridge_is_the_closed_form_of_scikit_learn(n, dim):
    random = torch.Generator().manual_seed(0)
    x, y = (torch.randn(n, width, generator=random, dtype=torch.float64) for width in (dim, 4))
    found = ridge_weights(x, y, 0.7)
    reference = Ridge(alpha=0.7, fit_intercept=False).fit(x.numpy(), y.numpy()).coef_.T
    torch.testing.assert_close(found, torch.from_numpy(reference))
    dual = x.T @ torch.linalg.inv(x @ x.T + 0.7 * torch.eye(n, dtype=torch.float64)) @ y
    primal = torch.linalg.inv(x.T @ x + 0.7 * torch.eye(dim, dtype=torch.float64)) @ x.T @ y
    torch.testing.assert_close(found, dual)
    torch.testing.assert_close(found, primal)


def test_few_shot_is_ridge_on_balanced_draws(monkeypatch):
    train, test = blobs(90, 2.0), blobs(300, 2.0, seed=1)
    calls = []

    def recorded(x, targets, penalty):
        calls.append((x, targets, penalty))
        return ridge_weights(x, targets, penalty)

    monkeypatch.setattr(probes, "ridge_weights", recorded)
    mean, std, num_images = few_shot_probe(train, test, num_classes=3, shots=4, num_draws=5, ridge=0.5, seed=0)
    x_test = standardise(train.features, test.features)[0]
    scores = []
    for x, targets, penalty in calls:
        assert x.shape == (12, 6) and penalty == 3.0
        assert (targets > 0).sum(0).tolist() == [4, 4, 4]
        torch.testing.assert_close(targets.sum(1), torch.zeros(12), atol=1e-6, rtol=0)
        model = Ridge(alpha=penalty, fit_intercept=False).fit(x.double().numpy(), targets.double().numpy())
        scores.append((model.predict(x_test.double().numpy()).argmax(1) == test.labels.numpy()).mean())
    assert mean == pytest.approx(np.mean(scores), abs=1e-9) and std == pytest.approx(np.std(scores), abs=1e-9)
    assert len({tuple(x.flatten().tolist()) for x, _, _ in calls}) == 5 and num_images == 12


def test_a_class_with_fewer_images_gives_all_of_them():
    train, test = blobs(90, 2.0), blobs(300, 2.0, seed=1)
    train = train.part(torch.cat([torch.arange(90)[train.labels < 2], torch.arange(90)[train.labels == 2][:7]]))
    members = few_shot_members(train.labels, 20, seed=0, draw=0)
    assert train.labels[members].bincount().tolist() == [20, 20, 7] and len(members.unique()) == 47
    found = few_shot_probe(train, test, num_classes=3, shots=20, num_draws=3, ridge=1.0, seed=0)
    assert found.num_images == 47 and 0.6 < found.top1 < 1
    assert not torch.equal(members, few_shot_members(train.labels, 20, seed=0, draw=1))


# 6. All together

KNN = Knn(k=5, temperature=0.07)
FEW_SHOT = FewShot(shots=[1, 10], num_draws=2, ridge=1.0)
TASK = Task(NUM_CLASSES, Probe(holdout_frac=0.2, linear=LINEAR, knn=KNN, few_shot=FEW_SHOT), seed=0)


def test_evaluate_gives_every_number_and_the_same_again():
    train, test = blobs(120, 3.0), blobs(200, 3.0, seed=1)
    found = evaluate(train, test, TASK)
    assert list(found) == [
        "linear_top1", "linear_lr", "linear_weight_decay", "linear_holdout_top1", "knn_top1",
        "linear_top1_1shot", "linear_top1_1shot_std", "linear_top1_1shot_images",
        "linear_top1_10shot", "linear_top1_10shot_std", "linear_top1_10shot_images",
    ]  # fmt: skip
    assert all(0 <= value <= 1 for name, value in found.items() if "_top1" in name and not name.endswith("_images"))
    assert (found["linear_top1_1shot_images"], found["linear_top1_10shot_images"]) == (3, 30)
    torch.manual_seed(9)
    assert evaluate(train, test, TASK) == found
    assert found["knn_top1"] == knn_probe(train, test, num_classes=3, **KNN.model_dump())
    order = torch.randperm(200, generator=torch.Generator().manual_seed(0))
    turned = evaluate(train, Split(test.features[order], test.labels[order]), TASK)
    assert turned == pytest.approx(found, abs=1 / 200 + 1e-9)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_gives_the_same_numbers_and_the_same_again():
    splits = blobs(120, 3.0), blobs(200, 3.0, seed=1)
    on_gpu = [Split(features.cuda(), labels.cuda()) for features, labels in splits]
    found, again = (evaluate(*on_gpu, TASK) for _ in range(2))
    assert found == again
    assert found == pytest.approx(evaluate(*splits, TASK), abs=2 / 200)
