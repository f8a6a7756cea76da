"""Claims about a pretraining that is interrupted or watched:

1. An interrupted run that is continued equals an uninterrupted one bit for bit: weights, optimiser and history.
   So does one that is interrupted after any step, by SIGTERM, SIGINT or a state kept between two steps; also one that
   streams a set larger than the shuffling window from the disk.
2. A run that is watched has the bits of one that is not; what was watched is part of the history, also of a run that
   is continued.
"""

from __future__ import annotations

import signal
from functools import partial
from itertools import islice

import pytest
import torch
from small_training import (
    CPU,
    PROJ_DIM,
    VIT,
    bits,
    digits,
    in_a_batch,
    new_learner,
    objective,
    outcome,
    packed,
    start,
    timeless,
)

from pipeline.core.distributed.devices import choose_autocast
from pipeline.core.seeds import generator
from pipeline.data.packed import ImageBatch, PackedSplit
from pipeline.data.shards import Blocks
from pipeline.data.shuffle import shuffled
from pipeline.losses.lejepa import random_directions
from pipeline.runtime.errors import Interrupted
from pipeline.training.held_out import HeldOutMonitor

pytestmark = pytest.mark.seconds


@pytest.fixture(scope="module")
def images() -> ImageBatch:
    return in_a_batch(digits())


@pytest.fixture(scope="module")
def encoded(tmp_path_factory) -> PackedSplit:
    return packed(tmp_path_factory.mktemp("data") / "digits")


# 1. Resuming


@pytest.mark.parametrize(("name", "arguments"), [("test_vit", {**VIT, "drop_path_rate": 0.2}), ("test_resnet", {})])
def test_resumed_equals_uninterrupted(images, tmp_path, name, arguments):
    whole = outcome(new_learner(0, name, arguments), images, tmp_path / "whole")

    interrupted = start(new_learner(0, name, arguments), images, tmp_path / "parts")
    seen = list(islice(interrupted, 1))
    interrupted.close()
    assert [record.epoch for record in seen] == [1]
    torch.manual_seed(77)  # the new process has another random state and other initial weights
    assert outcome(new_learner(5, name, arguments), images, tmp_path / "parts") == whole


@pytest.mark.parametrize(("signum", "step"), [*((signal.SIGTERM, step) for step in (0, 3, 5)), (signal.SIGINT, 2)])
def test_a_signal_ends_the_run_after_the_step_and_loses_nothing(images, tmp_path, step, signum):
    def signalled(projections, at, **target):
        if at == step:
            signal.raise_signal(signum)
        return objective()(projections, at, **target)

    handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    whole = outcome(new_learner(), images, tmp_path / "whole")
    seen = []
    with pytest.raises(Interrupted, match=f"interrupted at step {step + 1}/6; checkpoint saved") as caught:
        seen.extend(start(new_learner(), images, tmp_path / "parts", objective=signalled))
    assert caught.value.signum == signum and len(seen) == (step + 1) // 2 - (step % 2)
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == handlers
    assert outcome(new_learner(5), images, tmp_path / "parts") == whole


def test_a_second_signal_acts_at_once(images, tmp_path):
    def impatient(projections, at, **target):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    try:
        with pytest.raises(KeyboardInterrupt) as caught:
            list(start(new_learner(), images, tmp_path, objective=impatient))
    finally:
        signal.signal(signal.SIGINT, before)
    assert not isinstance(caught.value, Interrupted)


@pytest.mark.parametrize("step", [1, 4])
def test_a_state_between_two_steps_is_enough(images, tmp_path, step):
    """The process dies at a step without warning; the state of the step before was kept."""

    def dying(projections, at, **target):
        if at == step:
            raise MemoryError
        return objective()(projections, at, **target)

    whole = outcome(new_learner(), images, tmp_path / "whole", watch=new_watch())
    parts = {"checkpoint": {"minutes": 1e-9}, "watch": new_watch()}
    with pytest.raises(MemoryError):
        list(start(new_learner(), images, tmp_path / "parts", objective=dying, **parts))
    steps = []

    def counted(projections, at, **target):
        steps.append(at)
        return objective()(projections, at, **target)

    assert outcome(new_learner(5), images, tmp_path / "parts", objective=counted, **parts) == whole
    assert steps == list(range(step, 6))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_streamed_set_goes_on_in_the_middle_of_an_epoch(images, encoded, tmp_path, num_workers):
    """Ten blocks of four images, a window of three: in memory, streamed, and streamed in two parts, the same bits."""
    blocks = Blocks(torch.full((10,), 4), torch.full((10,), 10**8))
    changes = {"shuffle": partial(shuffled, blocks=blocks, window_gb=0.3), "loader": {"num_workers": num_workers}}

    def signalled(projections, at, **target):
        if at == 2:
            signal.raise_signal(signal.SIGTERM)
        return objective()(projections, at, **target)

    whole = outcome(new_learner(), images, tmp_path / "memory", **changes)
    assert outcome(new_learner(), encoded, tmp_path / "whole", **changes) == whole
    assert outcome(new_learner(), images, tmp_path / "permuted") != whole
    with pytest.raises(Interrupted, match="interrupted at step 3/6"):
        list(start(new_learner(), encoded, tmp_path / "parts", objective=signalled, **changes))
    assert outcome(new_learner(5), encoded, tmp_path / "parts", **changes) == whole


def test_a_finished_run_is_not_trained_again(images, tmp_path):
    whole = outcome(new_learner(), images, tmp_path)
    learner = new_learner(5)
    history = list(start(learner, images, tmp_path, objective=lambda *_, **__: pytest.fail("trained again")))
    assert bits([learner.state(), timeless(history)]) == whole


# 2. Watching

NETWORKS = [("test_vit", {**VIT, "drop_path_rate": 0.3}), ("test_resnet", {"drop_path_rate": 0.3})]


def new_watch() -> HeldOutMonitor:
    directions = random_directions(PROJ_DIM, 8, generator=generator(0, "test"))
    view = {"size_px": 16, "mean": [0.5] * 3, "std": [0.5] * 3}
    return HeldOutMonitor(in_a_batch(digits(70)[40:]), directions, view, 16, CPU, choose_autocast("auto", CPU))


@pytest.mark.parametrize(("name", "arguments"), NETWORKS)
def test_watching_changes_no_bit(images, tmp_path, name, arguments):
    watched, alone = (new_learner(0, name, arguments) for _ in range(2))
    history = list(start(watched, images, tmp_path / "watched", watch=new_watch()))
    plain = list(start(alone, images, tmp_path / "alone"))
    assert bits(watched.state()) == bits(alone.state())
    assert [record[:-3] for record in history] == [record[:-3] for record in plain]
    gradient = {"gradient_norm": plain[-1].health["gradient_norm"]}
    assert history[-1].health == gradient | new_watch()(watched.backbone, watched.projector)
    assert history[0].health != history[-1].health and [list(record.health) for record in plain] == [list(gradient)] * 3
    assert history[0].row() == {**plain[0].row(), **history[0].health}
    assert list(plain[0].row()) == ["epoch", "loss", "pred_loss", "sigreg_loss", "lr", "gradient_norm"]
