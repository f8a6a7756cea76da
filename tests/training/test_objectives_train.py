"""Claims: a tiny training lowers the loss of every objective; resumed in the middle of an epoch it has the bits of the
whole, with BYOL's averaged encoder and every head, and that encoder is a running average from the first step on."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from sklearn.datasets import load_digits
from small_training import CPU, LAMB, NUM_GLOBAL, PROJ_DIM, bits, digits, in_a_batch, settings, start, timeless
from torch import nn

from pipeline.losses import objective as objectives
from pipeline.losses.byol import BYOL
from pipeline.losses.objective import OBJECTIVES, RunObjective, make_objective
from pipeline.models.backbones import initial_backbone
from pipeline.training.learner import Learner, build_learner, make_learner

pytestmark = pytest.mark.seconds

CHANGES = {"epochs": 4, "batch_size": 80, "optimizer": {"lr": 1e-2}}


def learner_of(objective, seed: int = 0) -> Learner:
    backbone = initial_backbone("test_byobnet", {}, seed=seed)
    projector = {"hidden_dims": [16], "proj_dim": PROJ_DIM}
    chosen = settings(projector=projector)
    return build_learner(backbone, backbone.num_features, chosen, CPU, objective=objective, num_classes=10)


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


def test_the_example_of_the_docs_trains(tmp_path, monkeypatch):
    text = (Path(__file__).parents[2] / "docs/objectives.md").read_text(encoding="utf-8")
    (source,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    file = tmp_path / "objectives/sphere.py"
    file.parent.mkdir()
    file.write_text(source, encoding="utf-8")
    monkeypatch.setattr(objectives, "CLONE", tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    sphere = make_objective("objectives.sphere.Sphere", {"sharpness": 3.0})
    run = RunObjective(sphere, LAMB, NUM_GLOBAL, seed=0)
    history = list(start(learner_of(sphere), in_a_batch(digits(160)), tmp_path / "run", objective=run, **CHANGES))
    assert history[-1].loss < history[0].loss and list(history[0].losses) == ["loss", "align_loss", "uniform_loss"]


def test_target_is_a_running_average_from_the_first_step():
    torch.manual_seed(0)
    objective = BYOL(decay=0.75)
    backbone = nn.Sequential(nn.Flatten(), nn.Linear(12, 6))
    learner = make_learner(backbone, nn.Linear(6, 4), settings(), CPU, target_decay=objective.target_decay)
    first = backbone[1].weight.clone()
    assert torch.equal(learner.average.module[0][1].weight, first)
    learner.step(learner.project([torch.ones(2, 2, 3, 2, 2)])[0].square().sum(), 0.1, progress=0.0)
    second = backbone[1].weight.clone()
    torch.testing.assert_close(learner.average.module[0][1].weight, 0.75 * first + 0.25 * second)
    learner.step(learner.project([torch.ones(2, 2, 3, 2, 2)])[0].square().sum(), 0.1, progress=0.5)
    want = 0.875 * (0.75 * first + 0.25 * second) + 0.125 * backbone[1].weight
    torch.testing.assert_close(learner.average.module[0][1].weight, want)
