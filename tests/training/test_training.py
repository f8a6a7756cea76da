"""Claims about pretraining:

1. The history has one record an epoch, with the learning rate of its last step.
2. Biases, norms and what timm exempts do not decay; all parameters are trained.
3. Views are projected global ones first, grouped by resolution, each image at its place.
4. One step is a hand-written LeJEPA step.
5. The same seed gives the same bits, another seed others (from disk and workers: test_resuming.py).
6. A loss or gradient that is not finite stops the run and names step, epoch and images; nothing of it is kept.
7. A last partial batch is left out.
"""

from __future__ import annotations

import math

import pytest
import torch
from small_training import (
    LAMB,
    NUM_GLOBAL,
    PROJ_DIM,
    VIEWS,
    VIT,
    bits,
    digits,
    in_a_batch,
    new_learner,
    objective,
    outcome,
    start,
)
from torch import nn

from pipeline.core.checkpoints import Checkpoints
from pipeline.core.schedule import lr_factor
from pipeline.core.seeds import generator
from pipeline.data.loader import batches
from pipeline.data.packed import ImageBatch
from pipeline.losses.lejepa import LeJEPALoss, directions_for_step
from pipeline.models.projector import project_views
from pipeline.runtime.errors import NonFiniteLossError
from pipeline.training.loop import summary


@pytest.fixture(scope="module")
def images() -> ImageBatch:
    return in_a_batch(digits())


# 1. History


def test_history_has_the_learning_rate_of_the_last_step(images, tmp_path):
    history = list(start(new_learner(), images, tmp_path))
    wanted = [3e-3 * lr_factor(step, num_steps=6, num_warmup_steps=1, final_frac=1e-3) for step in (1, 3, 5)]
    assert [record.lr for record in history] == wanted
    assert wanted[-1] == pytest.approx(3e-6)
    assert [record.epoch for record in history] == [1, 2, 3]


# 2. Decay


@pytest.mark.parametrize("name", ["test_vit", "test_resnet"])
def test_decay_groups(name):
    learner = new_learner(backbone=name, arguments=VIT if name == "test_vit" else {})
    decays = {id(p): group["weight_decay"] for group in learner.optimizer.param_groups for p in group["params"]}
    exempt = {"pos_embed", "cls_token"} if name == "test_vit" else set()
    for module in (learner.backbone, learner.projector):
        assert module.training
        norms = {
            f"{owner}.{kind}" for owner, part in module.named_modules() for kind in ("weight", "bias")
            if isinstance(part, nn.LayerNorm | nn.BatchNorm1d | nn.BatchNorm2d)
        }  # fmt: skip
        for path, parameter in module.named_parameters():
            free = path in norms or path.endswith("bias") or path in exempt or parameter.ndim < 2
            assert decays.pop(id(parameter)) == (0.0 if free else 0.05), path
    assert decays == {}


# 3. Views


def test_views_keep_their_place():
    """The 'backbone' averages pixels, so a projection says which view and image it came from."""
    seen = []

    def backbone(x):
        seen.append(tuple(x.shape))
        return x.mean((2, 3))

    large = torch.arange(2 * 4.0).reshape(2, 4, 1, 1, 1).expand(2, 4, 3, 16, 16)
    small = 100 + torch.arange(3 * 4.0).reshape(3, 4, 1, 1, 1).expand(3, 4, 3, 8, 8)
    found = project_views(backbone, nn.Identity(), [large, small])
    assert seen == [(8, 3, 16, 16), (12, 3, 8, 8)]
    assert torch.equal(found, torch.cat((large, small.mean((3, 4), keepdim=True).expand(3, 4, 3, 16, 16)))[..., 0, 0])
    assert torch.equal(project_views(backbone, nn.Identity(), [large]), large[..., 0, 0])


# 4. The loss


def plain_loss(z: torch.Tensor, directions: torch.Tensor, lamb: float) -> LeJEPALoss:
    """The paper's loss, loop by loop and in float64."""
    z, t = z.double(), torch.linspace(0, 3, 17, dtype=torch.float64)
    centre = sum(z[view] for view in range(NUM_GLOBAL)) / NUM_GLOBAL
    pred = torch.stack([(centre - view).square().mean() for view in z]).mean()
    normal, parts = torch.exp(-t.square() / 2), []
    for view in z:
        angles = (view @ directions.double())[..., None] * t
        gap = (angles.cos().mean(0) - normal).square() + angles.sin().mean(0).square()
        parts.append((2 * len(view) * torch.trapezoid(gap * normal, t)).mean())
    sigreg = torch.stack(parts).mean()
    return LeJEPALoss((1 - lamb) * pred + lamb * sigreg, pred, sigreg)


def test_one_step_is_a_hand_written_step(images, tmp_path):
    batch_size, lr = len(images.labels), 0.01
    learner, other = new_learner(), new_learner()
    changes = {"epochs": 1, "schedule": {"warmup_epochs": 0}, "batch_size": batch_size, "optimizer": {"lr": lr}}
    (record,) = start(learner, images, tmp_path, **changes)

    order = torch.randperm(batch_size, generator=generator(0, "order"))
    (batch,) = batches(images, order, batch_size)
    large, small = VIEWS(batch.pixels, generator=generator(0, "views"))
    embeddings = [other.backbone(view) for views in (large, small) for view in views]
    projections = other.projector(torch.cat(embeddings)).unflatten(0, (3, batch_size))
    loss = plain_loss(projections, directions_for_step(0, 0, PROJ_DIM, 16), LAMB)
    loss.loss.backward()

    assert list(record.losses.values()) == pytest.approx([float(part.detach()) for part in loss], rel=1e-5)
    for ours, theirs in zip(learner.optimizer.param_groups, other.optimizer.param_groups, strict=True):
        for after, before in zip(ours["params"], theirs["params"], strict=True):
            torch.testing.assert_close(after.grad, before.grad, rtol=1e-3, atol=1e-5)
            # AdamW's first step: decay, then one learning rate along the sign of the gradient.
            kept = before * (1 - lr * ours["weight_decay"])
            torch.testing.assert_close(after, kept - lr * after.grad / (after.grad.abs() + 1e-8), rtol=1e-4, atol=1e-6)


# 5. Seeds


@pytest.mark.seconds
def test_same_seed_same_bits(images, tmp_path):
    first = outcome(new_learner(), images, tmp_path / "a")
    torch.manual_seed(123)
    torch.rand(5)
    assert outcome(new_learner(), images, tmp_path / "b") == first
    assert outcome(new_learner(), images, tmp_path / "d", seed=1) != first


# 6. Losses that are not finite


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_names_step_and_images(images, tmp_path, bad):
    def broken(projections, step, **target):
        found = objective()(projections, step, **target)
        return found | {"loss": found["loss"] * bad} if step == 3 else found

    learner = new_learner()
    run = start(learner, images, tmp_path, objective=broken)
    first = next(run)
    kept = bits([learner.state(), [tuple(first)]])
    members = torch.randperm(40, generator=generator(0, "order", 1))[16:32].tolist()
    with pytest.raises(NonFiniteLossError) as caught:
        next(run)
    message = str(caught.value)
    assert message.startswith("the loss is not finite at step 3 (epoch 2, batch 2, training images [")
    assert str(members[:8])[1:-1] in message and "lower pretrain.optimizer.lr" in message
    state = Checkpoints(tmp_path, "run").load()
    assert bits([state["learner"], state["history"]]) == kept


@pytest.mark.seconds
def test_a_gradient_that_is_not_finite_stops_the_last_step_too(images, tmp_path):
    """The loss is finite, its square root's slope at 0 is not; no later loss could tell."""

    def broken(projections, step, **target):
        found = objective()(projections, step, **target)
        return found | {"loss": found["loss"] + (0 * found["loss"]).sqrt()} if step == 5 else found

    with pytest.raises(NonFiniteLossError, match="the gradient is not finite at step 5 "):
        list(start(new_learner(), images, tmp_path, objective=broken, checkpoint={"minutes": 1e-9}))
    assert Checkpoints(tmp_path, "run").load()["tally"]["steps"] == 1


# 7. Batches and views


def test_the_last_partial_batch_is_left_out(images, tmp_path):
    steps = []

    def counted(projections, step, **_):
        steps.append((step, projections.shape[1]))
        return objective()(projections, step)

    learner = new_learner()
    history = list(start(learner, images, tmp_path, objective=counted, batch_size=15, epochs=2))
    assert steps == [(0, 15), (1, 15), (2, 15), (3, 15)]
    numbers = summary(learner.backbone, 64, 40, 15, [r.row() for r in history])
    assert numbers["images_seen"] == 60 and numbers["num_images"] == 40 and numbers["embed_dim"] == 64
    assert [numbers[name] for name in ("train_loss", "pred_loss", "sigreg_loss")] == list(history[-1].losses.values())
    assert numbers["num_params"] == sum(p.numel() for p in learner.backbone.parameters())
