"""Claims of benchmarks/ that hold without a stopwatch:

1. A step cut into phases is pipeline.training's step.
2. channels_last and compile change a step's numbers by rounding alone.
"""

from __future__ import annotations

import pytest
import torch

from benchmarks import profile, step
from pipeline.data.loader import batches

pytestmark = pytest.mark.seconds

CPU = torch.device("cpu")
MODEL = "test_convnext"


@pytest.fixture
def few_images(monkeypatch):
    for module in (step, profile):
        monkeypatch.setattr(module, "BATCH", 4)
    return step.made_images(4)


def test_a_step_in_phases_is_a_step(few_images):
    (batch,) = batches(few_images, torch.arange(4), 4)
    whole, phased = (step.make_learner(MODEL, CPU) for _ in range(2))
    step.train_step(whole, batch, step.make_objective(), 0)
    for group in phased.optimizer.param_groups:
        group["lr"] = 1e-4
    profile.step(phased, batch, step.make_objective(), 0)
    for name, weights in whole.backbone.state_dict().items():
        torch.testing.assert_close(phased.backbone.state_dict()[name], weights, msg=name)


@pytest.mark.parametrize(
    "setting",
    ["channels_last", pytest.param("compile", marks=pytest.mark.slow), pytest.param("both", marks=pytest.mark.slow)],
)
def test_a_switch_changes_a_step_by_rounding(few_images, setting):
    if "compile" in step.SETTINGS[setting] and step.why_not(MODEL, few_images, CPU):
        pytest.skip("this machine has no compiler")
    losses = []
    for changes in ({}, step.SETTINGS[setting]):
        learner, objective, taken = step.make_learner(MODEL, CPU, **changes), step.make_objective(), []
        (batch,) = batches(few_images, torch.arange(4), 4)

        def recorded(projections, index, objective=objective, taken=taken):
            taken.append(objective(projections, index))
            return taken[-1]

        for index in range(2):
            step.train_step(learner, batch, recorded, index)
        losses.append([float(loss["loss"].detach()) for loss in taken])
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
