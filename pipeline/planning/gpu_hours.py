"""GPU-hours of the pretrainings that are left, on named cards: counted operations over a share of a card's peak."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from pipeline.planning.inventory import Task
from pipeline.planning.step_time import Measured, an_image
from pipeline.runtime.files import read_json

# Dense bfloat16, TFLOP/s, as the makers' data sheets have them.
PEAK_TFLOPS = {"A100": 312.0, "H100": 989.0, "H200": 989.0, "RTX 4090": 165.0}
UTILISATION = 0.3  # assumed, not measured; large transformers reach 0.3 to 0.5, small convolutions less
PASSES = 3  # backward takes twice the operations of forward
LEAST_HOURS = 1.0  # of the slowest card: a laptop's cells are not worth a line
REPORT = Path("reports/gpu/report.json")  # of `make gpu`


def rates() -> dict[str, float]:
    """Return TFLOP/s by card: the share of the peak that is assumed, and the fastest step that `make gpu` measured."""
    found = {f"{card} (assumed)": UTILISATION * peak for card, peak in PEAK_TFLOPS.items()}
    told = read_json(REPORT) if REPORT.exists() else {"tiny": True}
    if told["tiny"]:
        return found
    measured = [figure["value"] for part in told["figures"].values() for figure in part if figure["unit"] == "TFLOP/s"]
    return found | ({f"{told['hardware']['GPU'].partition(',')[0]} (measured)": max(measured)} if measured else {})


def gpu_hours_text(tasks: Iterable[Task], measured: Measured) -> str:
    """Say how long the pretrainings that are left take on one card; "" for less than an hour, or if none is known.

    Args:
        tasks: one a pretraining.
        measured: operations of every shape of step that is known.
    """
    left = [task for task in tasks if task.owner and not task.pretrain_done and task.shape in measured.speeds]
    tflop = sum(
        PASSES * an_image(measured.speeds[task.shape].operations, task.pretrain.views)
        * task.num_steps * task.pretrain.batch_size / 1e12
        for task in left
        if task.num_steps is not None
    )  # fmt: skip
    hours = {card: tflop / rate / 3600 for card, rate in rates().items()}
    if max(hours.values()) < LEAST_HOURS:
        return ""
    return f"{', '.join(f'{card} {number:,.0f}' for card, number in hours.items())}; pretraining, one card"
