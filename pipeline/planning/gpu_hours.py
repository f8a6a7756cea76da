"""Named cards, and GPU-hours of pretrainings on them: counted operations over a share of a card's peak."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from pipeline.planning.inventory import Task
from pipeline.planning.step_time import Measured, an_image
from pipeline.runtime.files import read_json


class Card(NamedTuple):
    """A card as its maker's data sheet has it: dense bfloat16 in TFLOP/s, and memory in 1e9 bytes."""

    name: str
    peak_tflops: float
    memory_gb: float


CARDS = (Card("A100", 312, 80), Card("H100", 989, 80), Card("H200", 989, 141), Card("RTX 4090", 165, 24))
UTILISATION = 0.3  # assumed, not measured; large transformers reach 0.3 to 0.5, small convolutions less
PASSES = 3  # backward takes twice the operations of forward
LEAST_HOURS = 1.0  # of the slowest card: a laptop's cells are not worth a line
REPORT = Path("reports/gpu/report.json")  # of `make gpu`


def rates() -> dict[str, float]:
    """Return TFLOP/s by card: the share of the peak that is assumed; of the card that `make gpu` ran on, measured."""
    found = {card.name: UTILISATION * card.peak_tflops for card in CARDS}
    told = read_json(REPORT) if REPORT.exists() else {"tiny": True}
    figures = () if told["tiny"] else [figure for part in told["figures"].values() for figure in part]
    measured = [figure["value"] for figure in figures if figure["unit"] == "TFLOP/s"]
    if not measured:
        return {f"{name} (assumed)": rate for name, rate in found.items()}
    gpu = told["hardware"]["GPU"].partition(",")[0]
    assumed = {f"{name} (assumed)": rate for name, rate in found.items() if name not in gpu}
    return {f"{gpu} (measured)": max(measured)} | assumed


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
    told = ", ".join(f"{card} {number:,.0f}" for card, number in hours.items())
    return f"{told}; pretraining on one card, assumed: {UTILISATION:.0%} of its peak in bfloat16"
