"""Claims about what pretraining changes:

1. A predictor stands between projections and centre, is trained, and leaves SIGReg to the projections.
2. An averaged encoder makes the centres without gradient and follows the weights as an exponential moving average.
3. A resumed run with both equals an uninterrupted one bit for bit.
4. Passes of micro-batches have the weights of whole batches up to rounding, hold fewer activations, and draw the same
   dropout when they are computed again; so do blocks that are computed again (`checkpoint_activations`).
5. build_learner follows its settings: predictor, average; the same seed gives the same weights. `patch_drop_rate` of a
   backbone's arguments drops tokens.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import islice

import pytest
import torch
from small_training import CPU, settings, start
from torch import nn

from pipeline.data.packed import ImageBatch
from pipeline.data.views.multicrop import Multicrop
from pipeline.losses.lejepa import lejepa_loss, random_directions
from pipeline.models.backbones import initial_backbone
from pipeline.training.learner import Learner, build_learner, make_learner

VIEWS = Multicrop(num_global=2, num_local=0, global_px=8, local_px=8, mean=[0.5] * 3, std=[0.5] * 3)


def tiny(*, predictor: bool = False, swa_decay: float | None = None, micro_batch_size: int | None = None) -> Learner:
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 6))
    head = nn.Linear(4, 4) if predictor else None
    swa = {"enabled": True, "decay": swa_decay} if swa_decay else {}
    chosen = settings(swa=swa, layout={"micro_batch_size": micro_batch_size})
    return make_learner(backbone, nn.Linear(6, 4), chosen, CPU, predictor=head)


def run(learner: Learner, folder):
    images = ImageBatch(
        torch.randint(0, 256, (16, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)),
        torch.zeros(16, dtype=torch.int64),
    )
    return start(learner, images, folder, make_views=VIEWS, batch_size=8)


def weights(learner: Learner) -> list[torch.Tensor]:
    return [p.clone() for part in ("backbone", "projector") for p in getattr(learner, part).parameters()]


# 1. Predictor


def test_predictions_replace_projections_in_the_prediction_loss_alone():
    z, directions, predicted = torch.randn(3, 8, 4), random_directions(4, 8), torch.randn(3, 8, 4)
    plain = lejepa_loss(z, directions, num_global=2, lamb=0.1)
    found = lejepa_loss(z, directions, num_global=2, lamb=0.1, predictions=predicted)
    torch.testing.assert_close(found.pred_loss, (z[:2].mean(0) - predicted).square().mean())
    assert torch.equal(found.sigreg_loss, plain.sigreg_loss)


def test_predictor_is_applied_to_every_view_and_trained(tmp_path):
    learner = tiny(predictor=True)
    z, predictions = learner.project([torch.randn(2, 3, 3, 8, 8)])
    torch.testing.assert_close(predictions, learner.predictor(z))
    before = learner.predictor.weight.clone()
    list(run(learner, tmp_path))
    assert not torch.equal(before, learner.predictor.weight)


# 2. Average


def test_average_is_the_exponential_moving_average():
    learner = tiny(swa_decay=0.75)
    first = weights(learner)
    learner.step(learner.projector(learner.backbone(torch.ones(2, 3, 8, 8))).square().sum(), 0.1)
    second = weights(learner)
    learner.step(learner.projector(learner.backbone(torch.ones(2, 3, 8, 8))).square().sum(), 0.1)
    third = weights(learner)
    averaged = list(learner.average.module.parameters())
    # torch takes the weights after the first step as the first average.
    for a, b, c, found in zip(first, second, third, averaged, strict=True):
        torch.testing.assert_close(found, 0.75 * b + 0.25 * c)
        assert not torch.equal(a, b)


# 3. Resuming


def test_resumed_equals_uninterrupted_with_both_heuristics(tmp_path):
    whole = tiny(predictor=True, swa_decay=0.9)
    history = list(run(whole, tmp_path / "whole"))
    interrupted = run(tiny(predictor=True, swa_decay=0.9), tmp_path / "parts")
    list(islice(interrupted, 1))
    interrupted.close()
    resumed = tiny(predictor=True, swa_decay=0.9)
    assert [epoch.row() for epoch in run(resumed, tmp_path / "parts")] == [epoch.row() for epoch in history]
    for name in ("backbone", "projector", "predictor", "average"):
        for a, b in zip(whole.state()[name].values(), resumed.state()[name].values(), strict=True):
            assert torch.equal(a, b)


# 4. Micro-batches


@pytest.mark.parametrize("micro_batch_size", [1, 3, 8])
def test_micro_batches_are_exact(tmp_path, micro_batch_size):
    """Batches of 8, in float64: in float32 AdamW would turn a rounding near zero into a whole step."""
    trained = {}
    for size in (None, micro_batch_size):
        learner = tiny(micro_batch_size=size)
        learner.backbone.double(), learner.projector.double()
        learner.backbone.register_forward_pre_hook(lambda _, args: (args[0].double(),))
        trained[size] = [epoch.loss for epoch in run(learner, tmp_path / str(size))], weights(learner)
    (losses, plain), (found_losses, found) = trained.values()
    assert found_losses == pytest.approx(losses, rel=1e-12)
    torch.testing.assert_close(found, plain, rtol=1e-9, atol=1e-12)
    assert not torch.equal(plain[0], tiny().backbone[1].weight.double()), "it was trained"


def test_micro_batches_hold_less():
    passed, held = {}, {}
    for size in (None, 2):
        passed[size], held[size] = [], 0
        backbone = nn.Sequential(nn.Flatten(), nn.Linear(192, 500), nn.GELU(), nn.Linear(500, 6))
        learner = replace(tiny(micro_batch_size=size), backbone=backbone)
        backbone.register_forward_pre_hook(lambda _, args, into=passed[size]: into.append(len(args[0])))

        def count(tensor: torch.Tensor, size=size) -> torch.Tensor:
            held[size] += tensor.shape[-1] == 500 and len(tensor) > 6  # activations, not weights
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            projections, _ = learner.project([torch.randn(2, 8, 3, 8, 8), torch.randn(1, 8, 3, 8, 8)])
        assert projections.shape == (3, 8, 4)
        projections.sum().backward()
    assert passed[None] == [16, 8] and held[None] > 0
    assert passed[2] == [4] * 4 + [2] * 4 + [2] * 4 + [4] * 4, "backwards, each pass is computed again"
    assert held[2] == 0


def test_micro_batches_repeat_their_dropout():
    """The gradient of a dropout's output by its input is its mask: only the same mask makes both proportional."""
    weight = nn.Parameter(torch.ones(192))
    learner = replace(tiny(micro_batch_size=2), backbone=Masked(weight), projector=nn.Identity())
    projections, _ = learner.project([torch.ones(1, 6, 3, 8, 8)])
    (projections.sum() / 2).backward()
    assert 0 < (projections == 0).sum() < projections.numel()
    torch.testing.assert_close(weight.grad, projections.detach().sum((0, 1)) / 2)


class Masked(nn.Module):
    """Weighs pixels, half of which are dropped."""

    def __init__(self, weight: nn.Parameter) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return nn.functional.dropout(pixels.flatten(1), 0.5) * self.weight


@pytest.mark.parametrize("arguments", [{"drop_path_rate": 0.3, "proj_drop_rate": 0.2}, {"patch_drop_rate": 0.5}])
def test_blocks_that_are_computed_again_are_exact(arguments):
    gradients, kept = {}, {}
    for again in (False, True):
        learner, kept[again] = built(arguments, layout={"checkpoint_activations": again}), []
        torch.manual_seed(0)
        views = [torch.randn(2, 4, 3, 16, 16, requires_grad=True), torch.randn(1, 4, 3, 8, 8)]
        with torch.autograd.graph.saved_tensors_hooks(lambda x, to=kept[again]: to.append(x.numel()) or x, lambda x: x):
            projections, _ = learner.project(views)
        projections.pow(3).sum().backward()
        gradients[again] = [projections, *(each.grad for each in learner.backbone.parameters())]
    torch.testing.assert_close(gradients[True], gradients[False], rtol=1e-6, atol=1e-6)
    assert sum(kept[True]) < 0.5 * sum(kept[False])


# 5. Settings


def test_tokens_are_dropped_in_training_alone():
    """Of views of every size the same part, never a class or register token; timm does it."""
    learner, lengths = built({"patch_drop_rate": 0.5, "reg_tokens": 2, "img_size": 32}), []
    learner.backbone.blocks[0].register_forward_pre_hook(lambda _, args: lengths.append(args[0].shape[1]))
    views = [torch.randn(2, 4, 3, 32, 32), torch.randn(1, 4, 3, 16, 16)]
    projections, _ = learner.project(views)
    learner.step(projections.square().sum(), 1e-3)
    learner.backbone.eval()(views[0][0])
    prefix = learner.backbone.num_prefix_tokens
    assert prefix == 3 and lengths == [prefix + 8, prefix + 2, prefix + 16]


def built(arguments: dict | None = None, **sections) -> Learner:
    sizes = {"img_size": 16, "patch_size": 8, "dynamic_img_size": True}
    backbone = initial_backbone("test_vit", sizes | (arguments or {}), seed=0)
    return build_learner(backbone, 64, settings(projector={"hidden_dims": [16], "proj_dim": 8}, **sections), CPU)


def test_heuristics_follow_the_settings():
    plain = built()
    both = built(predictor={"enabled": True, "hidden_dim": 12}, swa={"enabled": True, "decay": 0.9})
    assert plain.predictor is None and plain.average is None
    assert both.predictor(torch.randn(4, 8)).shape == (4, 8)
    assert both.average is not None
    for a, b in zip(weights(plain), weights(both), strict=True):
        assert torch.equal(a, b)
