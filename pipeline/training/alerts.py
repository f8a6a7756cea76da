"""Alerts after an epoch: collapse, divergence, data starvation.

Nothing is stopped or written here: monitor.py acts on what is found. A loss or gradient that is not finite is
no alarm but an error (epochs.py).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from typing import NamedTuple

from pipeline.losses.projected import Objective
from pipeline.runtime.errors import UserError
from pipeline.schema.pretrain import Alarms

# What is watched (held_out.py) and falls when representations collapse, with the setting that it must not fall
# below.
LOWEST = {"embedding_rank": "min_rank", "projection_rank": "min_rank", "projection_std": "min_std"}


class AlarmError(UserError):
    """An alarm rang and pretrain.alarms.action is fail."""


class Alarm(NamedTuple):
    """One thing that went wrong: `name` is collapse, explosion or starvation, `epoch` counts from 1."""

    name: str
    epoch: int
    text: str


# Steps before a collapse can be seen: BatchNorm's running averages, with which held-out images are embedded, forget
# nine tenths of their start in 22 steps.
MIN_STEPS = 50


def unsettled_epochs(warmup_epochs: float, steps_per_epoch: int) -> int:
    """Return how many epochs at the start do not tell a collapse: those of the warm-up, and at least 50 steps."""
    return max(math.ceil(warmup_epochs), math.ceil(MIN_STEPS / steps_per_epoch))


def raised(
    rows: Sequence[Mapping[str, float]], settings: Alarms, *, num_epochs: int, num_unsettled: int = 0
) -> list[Alarm]:
    """Return the alarms that ring for the first time at the last of some epochs.

    Args:
        rows: one an epoch: epoch, loss, wait_frac (part of the epoch's time spent waiting for images, in [0, 1]), and
            what was watched; a run that is not watched cannot be seen to collapse.
        settings: the section `pretrain.alarms`.
        num_epochs: of the whole run. Its first epoch, in which workers start and caches are cold, may starve unless it
            is the only one.
        num_unsettled: first epochs, in which no collapse is looked for.

    Returns:
        At most one alarm of each name; each names value, threshold, setting and what usually helps.
    """
    lowest_before = accumulate((row["loss"] for row in rows), min, initial=math.inf)
    pairs = zip(rows, lowest_before, strict=False)
    found = [list(_signs(row, before, settings, num_unsettled)) for row, before in pairs]
    if num_epochs != 1:
        found[0] = [alarm for alarm in found[0] if alarm.name != "starvation"]
    rang = {alarm.name for earlier in found[:-1] for alarm in earlier}
    return [alarm for alarm in found[-1] if alarm.name not in rang]


def limits_for(objective: type[Objective], settings: Alarms) -> Alarms:
    """Return the settings without the limits that do not tell a collapse under an objective.

    A spread tells one where the objective fixes the scale of projections. A rank tells none where labels are learned:
    of two classes it may come down to one.
    """
    limits = {"min_std": objective.fixes_scale, "min_rank": not objective.needs_labels}
    return settings.model_copy(update={name: 0.0 for name, tells in limits.items() if not tells})


def is_collapsed(rows: Sequence[Mapping[str, float]], settings: Alarms, *, num_unsettled: int = 0) -> bool:
    """Return whether the last epoch that was watched shows a collapse; a run can pass through one early and recover."""
    watched = [row for row in rows if not LOWEST.keys().isdisjoint(row)]
    return bool(watched) and watched[-1]["epoch"] > num_unsettled and bool(_collapse(watched[-1], settings))


def _signs(row: Mapping[str, float], lowest_before: float, settings: Alarms, num_unsettled: int) -> Iterator[Alarm]:
    checks = {
        "collapse": _collapse(row, settings) if row["epoch"] > num_unsettled else "",
        "explosion": _explosion(row["loss"], lowest_before, settings.max_loss_ratio),
        "starvation": _starvation(row["wait_frac"], settings.max_wait_frac),
    }
    epoch = int(row["epoch"])
    for name, said in checks.items():
        if said:
            yield Alarm(name, epoch, f"{name} at epoch {epoch}: {said}")


def _collapse(row: Mapping[str, float], settings: Alarms) -> str:
    low = [
        f"{name} {row[name]:.3g} is below pretrain.alarms.{limit} {getattr(settings, limit):g}"
        for name, limit in LOWEST.items()
        if row.get(name, math.inf) < getattr(settings, limit)
    ]
    remedy = "raise lambda (grid.lambdas), if the objective has one, or lower pretrain.optimizer.lr"
    return f"{', '.join(low)}; {remedy}" if low else ""


def _explosion(loss: float, lowest_before: float, max_ratio: float) -> str:
    # A loss of 0 or below is nothing to be a multiple of; of the first epoch the ratio is 0.
    if lowest_before <= 0 or loss / lowest_before <= max_ratio:
        return ""
    return (
        f"the loss {loss:.4g} is {loss / lowest_before:.3g} times the lowest epoch's before it, more than "
        f"pretrain.alarms.max_loss_ratio {max_ratio:g}; lower pretrain.optimizer.lr or lengthen "
        "pretrain.schedule.warmup_epochs"
    )


def _starvation(wait_frac: float, max_frac: float) -> str:
    if wait_frac <= max_frac:
        return ""
    return (
        f"{wait_frac:.3g} of its time went into waiting for images, more than pretrain.alarms.max_wait_frac "
        f"{max_frac:g}; raise pretrain.loader.num_workers, or pretrain.loader.memory_gb to keep the images in memory"
    )
