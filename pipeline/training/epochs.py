"""Bookkeeping of the training loop: epoch means, data-wait time, checkpoints, non-finite detection."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from pipeline.core.checkpoints import Checkpoints
from pipeline.core.distributed.collectives import from_first_rank, rank
from pipeline.data.packed import ImageBatch
from pipeline.runtime.errors import NonFiniteLossError
from pipeline.training.learner import Learner

# On a GPU reading a flag waits for the device, so it is read this often; on a CPU at every step.
STEPS_BETWEEN_CHECKS = 50


class Epoch(NamedTuple):
    """Means over the steps of one epoch: the loss and its parts; `lr` is the learning rate of its last step.

    `health` is what was watched: the mean norm of the gradient, and what the watch saw at the epoch's end. `wait_frac`
    is the part of `wall_s`, the seconds of its steps, that went into waiting for images; unlike all else the two differ
    from run to run.
    """

    epoch: int
    losses: dict[str, float]
    lr: float
    health: dict[str, float]
    wait_frac: float
    wall_s: float

    @property
    def loss(self) -> float:
        """What was minimised."""
        return self.losses["loss"]

    def row(self) -> dict[str, float]:
        """Return the epoch's row of history.csv: its losses, the learning rate, then its health."""
        return {"epoch": self.epoch} | self.losses | {"lr": self.lr} | self.health


@dataclass
class EpochTotals:
    """What an epoch has come to so far: steps done, sums (P,) over them of the numbers `names`, seconds."""

    names: tuple[str, ...] = ()
    sums: Tensor | None = None
    steps: int = 0
    wait_s: float = 0.0
    wall_s: float = 0.0

    def add(self, parts: dict[str, Tensor]) -> Tensor:
        """Count a step with these scalars, the same names at every step; return them as (P,)."""
        numbers = torch.stack(list(parts.values())).detach()
        self.names = tuple(parts)
        self.sums = numbers.clone() if self.sums is None else self.sums + numbers
        self.steps += 1
        return numbers

    def means(self) -> dict[str, float]:
        """Return the mean of each number over the steps."""
        return dict(zip(self.names, (self.sums / self.steps).tolist(), strict=True))

    @property
    def wait_frac(self) -> float:
        """Part of the time that went into waiting for images."""
        return self.wait_s / self.wall_s if self.wall_s else 0.0


class Progress:
    """How far a run is: its finished epochs and the tally of the one under way. Rank 0 keeps them with the learner.

    Attributes:
        history: the finished epochs.
        tally: of the epoch under way.
    """

    def __init__(self, learner: Learner, checkpoints: Checkpoints, steps_per_epoch: int, device: torch.device) -> None:
        """Go on from the newest whole state that rank 0 finds, if there is one: the learner takes it up."""
        self._learner, self._checkpoints = learner, checkpoints
        self._steps_per_epoch = steps_per_epoch
        state = from_first_rank(checkpoints.load() if rank() == 0 else None)
        self.history = [Epoch(*record) for record in state["history"]] if state else []
        self.tally = EpochTotals()
        if state:
            learner.restore(state["learner"])
            self.tally = EpochTotals(**state["tally"])
            if self.tally.sums is not None:
                self.tally.sums = self.tally.sums.to(device)

    @property
    def step(self) -> int:
        """Steps done since the run began."""
        return len(self.history) * self._steps_per_epoch + self.tally.steps

    def keep(self) -> None:
        """Write the state; all ranks call it, since they may each hold a part, and rank 0 writes."""
        history = [tuple(record) for record in self.history]
        state = {"learner": self._learner.state(), "history": history, "tally": vars(self.tally)}
        if rank() == 0:
            self._checkpoints.save(state, step=self.step)

    def end_epoch(self, lr: float, watched: dict[str, float]) -> Epoch:
        """Turn the tally into the means of an epoch, keep the state and return them."""
        losses = self.tally.means()
        health = {"gradient_norm": losses.pop("gradient_norm")} | watched
        times = self.tally.wait_frac, self.tally.wall_s
        self.history.append(Epoch(len(self.history) + 1, losses, lr, health, *times))
        self.tally = EpochTotals()
        self.keep()
        return self.history[-1]


class NonFiniteDetector:
    """Remembers the first step of an epoch whose loss or gradient is not finite, without waiting for the device."""

    def __init__(self, order: Tensor, batch_size: int, steps_per_epoch: int, device: torch.device) -> None:
        """Take the epoch's order (N,) of images, the size of its batches and their number."""
        self._order, self._batch_size, self._steps_per_epoch = order, batch_size, steps_per_epoch
        self._on_cpu = device.type == "cpu"
        self._step = torch.full((), -1, device=device)
        self._in_loss = torch.zeros((), dtype=torch.bool, device=device)

    def note(self, parts: Tensor, step: int) -> None:
        """Look at the losses and the gradient's norm of a step; stop now and then if one was not finite."""
        first = (self._step < 0) & ~parts.isfinite().all()
        self._step = torch.where(first, step, self._step)
        self._in_loss = torch.where(first, ~parts[0].isfinite(), self._in_loss)
        if self._on_cpu or step % STEPS_BETWEEN_CHECKS == 0:
            self.stop_if_not_finite()

    def stop_if_not_finite(self) -> None:
        """Raise if a step that was noted was not finite."""
        step = int(self._step)
        if step < 0:
            return
        epoch, index = divmod(step, self._steps_per_epoch)
        members = self._order[index * self._batch_size : (index + 1) * self._batch_size].tolist()
        raise NonFiniteLossError(
            f"the {'loss' if self._in_loss else 'gradient'} is not finite at step {step} (epoch {epoch + 1}, batch "
            f"{index + 1}, training images {members[:8]}{' ...' if len(members) > 8 else ''}); lower "
            "pretrain.optimizer.lr, lengthen pretrain.schedule.warmup_epochs, or set pretrain.precision: float32"
        )


def time_batches(loader: Iterator[ImageBatch], tally: EpochTotals, device: torch.device) -> Iterator[ImageBatch]:
    """Pass batches on and count the seconds: those spent waiting for images, and all."""
    while True:
        asked = time.monotonic()
        batch = next(loader, None)
        # A GPU works on while the host waits; time is lost only if it has nothing left to do.
        if device.type != "cuda" or torch.cuda.current_stream(device).query():
            tally.wait_s += time.monotonic() - asked
        if batch is None:
            return
        yield batch
        tally.wall_s += time.monotonic() - asked
