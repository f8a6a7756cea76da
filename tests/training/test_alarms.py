"""Claims about pipeline.training.alerts.

1. Collapse rings for a rank or a spread below its limit, not for what is not watched or NaN, not before a run has
   settled, and not for what tells no collapse under the objective. How a run ended is told by the last epoch watched.
2. Explosion compares an epoch with the lowest one before it.
3. Starvation rings beyond its limit, in the first epoch only if there is no other.
4. A name rings once, at its first epoch; several names ring together; what the run is like later changes nothing.
5. A text names epoch, value, threshold, the key of params.yaml, and keys that exist as the remedy.
"""

from __future__ import annotations

import math
import re
from functools import reduce

import pytest

from pipeline.losses.objective import OBJECTIVES
from pipeline.schema.pretrain import Alarms, Pretrain
from pipeline.training import alerts

SETTINGS = Alarms()
HEALTHY = {"embedding_rank": 20.0, "projection_rank": 12.0, "projection_std": 0.9}


def run(losses=(1.0, 0.8, 0.7), waits=None, **watched) -> list[dict[str, float]]:
    """Rows of a run; `watched` overrides the columns of its last epoch."""
    waits = waits or [0.0] * len(losses)
    rows = [
        {"epoch": epoch, "loss": loss, "wait_frac": wait, **HEALTHY}
        for epoch, (loss, wait) in enumerate(zip(losses, waits, strict=True), start=1)
    ]
    rows[-1].update(watched)
    return rows


def named(rows, num_epochs=9, **settings) -> list[str]:
    return [alarm.name for alarm in alerts.raised(rows, Alarms(**settings), num_epochs=num_epochs)]


LATE = [0.9, 0.9]
CASES = {
    "healthy": (run(), {}, []),
    "low rank of embeddings": (run(embedding_rank=1.49), {}, ["collapse"]),
    "low rank of projections": (run(projection_rank=0.0), {}, ["collapse"]),
    "low spread": (run(projection_std=0.0099), {}, ["collapse"]),
    "nothing watched": ([{"epoch": epoch, "loss": 1.0, "wait_frac": 0.0} for epoch in (1, 2)], {}, []),
    "watched and no number": (run(**dict.fromkeys(HEALTHY, math.nan)), {}, []),
    "ten times the lowest epoch before": (run([5.0, 1.0, 4.0, 10.1]), {}, ["explosion"]),
    "not more than that": (run([5.0, 1.0, 4.0, 10.0]), {}, []),
    "a limit of twice": (run([0.5, 1.0, 1.1]), {"max_loss_ratio": 2.0}, ["explosion"]),
    "half of the time": (run(waits=[0.0, 0.0, 0.51]), {}, ["starvation"]),
    "not half of it": (run(waits=[0.0, 0.0, 0.5]), {}, []),
    "all of it allowed": (run(waits=[0.0, 0.0, 1.0]), {"max_wait_frac": 1.0}, []),
    "the first epoch": (run([1.0], LATE[:1]), {}, []),
    "the only epoch": (run([1.0], LATE[:1]), {"num_epochs": 1}, ["starvation"]),
    "two epochs": (run([1.0, 1.0], LATE), {}, ["starvation"]),
}


@pytest.mark.parametrize(("rows", "changes", "rings"), CASES.values(), ids=CASES)
def test_what_rings(rows, changes, rings):
    assert named(rows, **changes) == rings


# 4. Once


def test_a_name_rings_once():
    rows = run([1.0, 20.0, 30.0, 1.0], [0.9, 0.9, 0.0, 0.9], projection_rank=1.2)
    rows[2]["projection_std"] = 0.001
    found = [alerts.raised(rows[:end], SETTINGS, num_epochs=4) for end in range(1, 5)]
    rang = [(alarm.name, alarm.epoch) for new in found for alarm in new]
    assert rang == [("explosion", 2), ("starvation", 2), ("collapse", 3)]


# 5. Texts


def test_texts():
    rows = run([1.0, 0.5, 6.0], [0.0, 0.0, 0.625], projection_rank=1.02, projection_std=0.0012)
    texts = [alarm.text for alarm in alerts.raised(rows, SETTINGS, num_epochs=3)]
    assert texts[0] == (
        "collapse at epoch 3: projection_rank 1.02 is below pretrain.alarms.min_rank 1.5, projection_std 0.0012 is "
        "below pretrain.alarms.min_std 0.01; raise lambda (grid.lambdas), if the objective has one, or lower "
        "pretrain.optimizer.lr"
    )
    assert "the loss 6 is 12 times" in texts[1] and "pretrain.alarms.max_loss_ratio 10;" in texts[1]
    assert "0.625 of its time" in texts[2] and "pretrain.alarms.max_wait_frac 0.5;" in texts[2]
    keys = {key for text in texts for key in re.findall(r"pretrain\.([\w.]+\w)", text)}
    assert len(keys) == 8
    for key in keys:
        reduce(getattr, key.split("."), Pretrain(epochs=20, batch_size=2))


@pytest.mark.parametrize(
    ("warmup_epochs", "steps_per_epoch", "expected"), [(0, 100, 1), (0, 50, 1), (0, 49, 2), (1.5, 100, 2), (3, 1, 50)]
)
def test_how_long_a_run_is_unsettled(warmup_epochs, steps_per_epoch, expected):
    assert alerts.unsettled_epochs(warmup_epochs, steps_per_epoch) == expected


def test_no_collapse_is_seen_before_a_run_has_settled():
    low = [{"epoch": epoch, "loss": 1.0, "wait_frac": 0.0, "projection_std": 0.001} for epoch in (1, 2, 3)]
    found = [alerts.raised(low[:end], SETTINGS, num_epochs=3, num_unsettled=2) for end in (1, 2, 3)]
    assert [len(some) for some in found] == [0, 0, 1]
    states = [alerts.is_collapsed(low[:end], SETTINGS, num_unsettled=2) for end in (1, 2, 3)]
    assert states == [False, False, True]


def test_a_collapse_is_judged_where_the_run_was_watched_last():
    unwatched = [{"epoch": epoch, "loss": 1.0} for epoch in (4, 5)]
    assert alerts.is_collapsed(run(projection_std=0.001) + unwatched, SETTINGS)
    assert not alerts.is_collapsed(run() + unwatched, SETTINGS) and not alerts.is_collapsed(unwatched, SETTINGS)


@pytest.mark.parametrize(
    ("objective", "column", "rings"),
    [
        *(("lejepa", column, True) for column in HEALTHY),
        *((name, "projection_std", True) for name in ("visreg", "weak_sigreg", "mmd", "ksd_imq", "vicreg")),
        *((name, "projection_std", False) for name in ("barlow_twins", "simclr", "byol", "supervised")),
        *((name, "embedding_rank", True) for name in ("barlow_twins", "simclr", "byol")),
        ("supervised", "embedding_rank", False),
    ],
)
def test_a_limit_rings_where_it_tells_a_collapse(objective, column, rings):
    limits = alerts.limits_for(OBJECTIVES[objective], SETTINGS)
    found = alerts.raised(run(**{column: 0.001}), limits, num_epochs=9)
    assert [alarm.name for alarm in found] == ["collapse"] * rings
