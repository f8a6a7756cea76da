"""What a training loop counts and checks at every step: means, waiting times, numbers that are not finite."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.datasets import ImageBatch
from pipeline.errors import NonFiniteLossError

# On a GPU reading a flag waits for the device, so it is read this often; on a CPU at every step.
STEPS_BETWEEN_CHECKS = 50


@dataclass
class Tally:
    """What an epoch has come to so far: steps done, sums over them (loss, pred, SIGReg, gradient norm), seconds."""

    sums: Tensor
    steps: int = 0
    wait_s: float = 0.0
    wall_s: float = 0.0

    @property
    def wait_frac(self) -> float:
        """Part of the time that went into waiting for images."""
        return self.wait_s / self.wall_s if self.wall_s else 0.0


class FiniteCheck:
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


def timed(loader: Iterator[ImageBatch], tally: Tally, device: torch.device) -> Iterator[ImageBatch]:
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
