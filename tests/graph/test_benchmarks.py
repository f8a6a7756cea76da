"""Claims of benchmarks/ that hold without a stopwatch:

1. Methods take turns, the first turn does not count, the median does.
2. A report states date, hardware, versions and command, and its rows have as many cells as its head.
3. A step cut into phases is pipeline.training's step.
4. channels_last and compile change a step's numbers by rounding alone.
"""

from __future__ import annotations

import sys

import pytest
import torch

from benchmarks import measure, profile, step
from pipeline.data.loader import batches

CPU = torch.device("cpu")
MODEL = "test_convnext"


@pytest.fixture
def few_images(monkeypatch):
    for module in (step, profile):
        monkeypatch.setattr(module, "BATCH", 4)
    return step.made_images(4)


def test_methods_take_turns_and_the_first_turn_does_not_count(monkeypatch):
    called, clock = [], iter([9.0, 9.0, 1.0, 4.0, 2.0, 5.0, 3.0, 60.0])
    monkeypatch.setattr(measure, "seconds", lambda work: work() or next(clock))
    methods = {name: lambda name=name: called.append(name) for name in "ab"}
    assert measure.in_turn(methods, rounds=3) == {"a": 2.0, "b": 5.0}
    assert called == list("abababab")


def test_a_report_says_how_it_was_made(monkeypatch, tmp_path):
    monkeypatch.setattr(measure, "REPORTS", tmp_path)
    monkeypatch.setattr(sys, "argv", ["step.py", "--rounds", "1"])
    tables = [(["a", "b"], [["1", "2"]])]
    path = measure.write_report("step", "Title", ["note"], tables, packages=("torch",), threads=2, device="cpu")
    text = path.read_text(encoding="utf-8")
    for part in (
        "# Title",
        "- Date: 20",
        ", 2 threads",
        "torch 2.",
        "`python -m benchmarks.step --rounds 1`",
        "- note",
    ):
        assert part in text
    assert text.endswith("| a | b |\n| --- | --- |\n| 1 | 2 |\n")


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
