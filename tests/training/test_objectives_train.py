"""Claims: a tiny training lowers the loss of every objective; resumed in the middle of an epoch it has the bits of the
whole, with BYOL's averaged encoder and every head, and that encoder is a running average from the first step on."""

from __future__ import annotations

import pytest
import torch
from sklearn.datasets import load_digits
from small_training import CPU, LAMB, NUM_GLOBAL, PROJ_DIM, bits, digits, in_a_batch, settings, start, timeless
from torch import nn

from pipeline.losses.byol import BYOL
from pipeline.losses.objective import OBJECTIVES, RunObjective
from pipeline.models.backbones import initial_backbone
from pipeline.models.projector import make_projector
from pipeline.training.learner import Learner, make_learner

CHANGES = {"epochs": 4, "batch_size": 80, "optimizer": {"lr": 1e-2}}


def learner_of(objective, seed: int = 0) -> Learner:
    backbone = initial_backbone("test_byobnet", {}, seed=seed)
    projector = make_projector(backbone.num_features, hidden_dims=[16], proj_dim=PROJ_DIM)
    decay = objective.target_decay if objective.target_decay(0.0) is not None else None
    return make_learner(
        backbone, projector, settings(), CPU, predictor=objective.head(PROJ_DIM, 10), target_decay=decay
    )


@pytest.mark.parametrize("name", OBJECTIVES)
def test_loss_falls_and_a_resumed_run_is_the_whole(name, tmp_path):
    images = in_a_batch(digits(160))._replace(labels=torch.from_numpy(load_digits().target[:160]))
    objective = OBJECTIVES[name]()
    run = RunObjective(objective, LAMB, NUM_GLOBAL, seed=0)

    def dying(projections, step, **seen):
        if step == 5:
            raise MemoryError
        return run(projections, step, **seen)

    whole = learner_of(objective)
    history = list(start(whole, images, tmp_path / "whole", objective=run, **CHANGES))
    assert history[-1].loss < history[0].loss
    often = {"checkpoint": {"minutes": 1e-9}, **CHANGES}
    with pytest.raises(MemoryError):
        list(start(learner_of(objective), images, tmp_path / "p", objective=dying, **often))
    resumed = learner_of(objective, seed=5)
    again = list(start(resumed, images, tmp_path / "p", objective=run, **CHANGES))
    assert bits([resumed.state(), timeless(again)]) == bits([whole.state(), timeless(history)])
    assert (resumed.predictor is not None) == objective.needs_head


def test_target_is_a_running_average_from_the_first_step():
    torch.manual_seed(0)
    objective = BYOL(decay=0.75)
    backbone = nn.Sequential(nn.Flatten(), nn.Linear(12, 6))
    learner = make_learner(backbone, nn.Linear(6, 4), settings(), CPU, target_decay=objective.target_decay)
    first = backbone[1].weight.clone()
    assert torch.equal(learner.average.module[0][1].weight, first)
    learner.step(learner.project([torch.ones(2, 2, 3, 2, 2)]).square().sum(), 0.1, progress=0.0)
    second = backbone[1].weight.clone()
    torch.testing.assert_close(learner.average.module[0][1].weight, 0.75 * first + 0.25 * second)
    learner.step(learner.project([torch.ones(2, 2, 3, 2, 2)]).square().sum(), 0.1, progress=0.5)
    want = 0.875 * (0.75 * first + 0.25 * second) + 0.125 * backbone[1].weight
    torch.testing.assert_close(learner.average.module[0][1].weight, want)
