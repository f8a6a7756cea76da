"""Run the epochs of a training: log each, raise alerts, stop or fail if configured."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any, NamedTuple, Protocol

from pipeline.losses.objective import objective_class
from pipeline.schema.pretrain import Pretrain
from pipeline.training import alerts
from pipeline.training.epochs import Epoch


class Tracker(Protocol):
    """The MLflow run of the training, or none if the store is in trouble."""

    def log_epoch(self, row: dict[str, float]) -> None:
        """Log a row of the history."""

    def log_alerts(self, alarms: dict[str, int]) -> None:
        """Log all alarms so far, {name: epoch}."""


class NullTracker:
    """No run: of the ranks above 0, whose numbers are those of rank 0."""

    def __enter__(self) -> NullTracker:
        """Begin nothing."""
        return self

    def __exit__(self, *_error: object) -> None:
        """End nothing."""

    def log_epoch(self, row: dict[str, float]) -> None:
        """Do nothing."""

    def log_alerts(self, alarms: dict[str, int]) -> None:
        """Do nothing."""


class TrainingOutcome(NamedTuple):
    """What was seen.

    history: a row an epoch. story: `alarms` {name: epoch} and whether the run ended `collapsed`. times: `wait_frac` of
    every epoch, the epoch that `starved_at` first (None: none did), and `train_s`, the seconds of all steps, also of
    those before an interruption; no two machines share them.
    """

    history: list[dict[str, float]]
    story: dict[str, Any]
    times: dict[str, Any]


def run_epochs(
    epochs: Iterable[Epoch], tracked: Tracker, settings: Pretrain, *, steps_per_epoch: int
) -> TrainingOutcome:
    """Take epoch after epoch until the last one or an alarm that ends the run.

    Args:
        epochs: of `training.pretrain`; one is trained whenever the next is asked for.
        tracked: where they are logged.
        settings: the section `pretrain`.
        steps_per_epoch: a collapse is looked for after the warm-up and the first 50 steps.

    Raises:
        AlarmError: an alarm rang and pretrain.alarms.action is fail. Starvation, which is the machine's, only warns.
    """
    watched, rang = alerts.limits_for(objective_class(settings.objective), settings.alarms), dict[str, int]()
    unsettled = alerts.unsettled_epochs(settings.schedule.warmup_epochs, steps_per_epoch)
    history: list[dict[str, float]] = []
    waits: list[float] = []
    train_s = 0.0
    for epoch in epochs:
        history.append(epoch.row())
        waits.append(round(epoch.wait_frac, 4))
        train_s += epoch.wall_s
        tracked.log_epoch(history[-1])
        rows = [{**row, "wait_frac": wait} for row, wait in zip(history, waits, strict=True)]
        new = alerts.raised(rows, watched, num_epochs=settings.epochs, num_unsettled=unsettled)
        print("".join(f"warning: {alarm.text}\n" for alarm in new), end="", file=sys.stderr)
        if new:
            rang |= {alarm.name: alarm.epoch for alarm in new}
            tracked.log_alerts(rang)
        grave = [alarm.text for alarm in new if alarm.name != "starvation"]
        if grave and watched.action == "fail":
            raise alerts.AlarmError("\n".join(grave))
        if grave and watched.action == "stop":
            break
    starved_at = rang.pop("starvation", None)
    story = {"alarms": rang, "collapsed": alerts.is_collapsed(history, watched, num_unsettled=unsettled)}
    return TrainingOutcome(history, story, {"wait_frac": waits, "starved_at": starved_at, "train_s": round(train_s, 3)})
