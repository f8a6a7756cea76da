"""Short measurements with the clock: calls of a piece of work, the probes, decoding, the start of a program.

Legend: N training images, M test images, C classes, D features.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch

from pipeline.data.packed import decode
from pipeline.distributed.devices import choose_device
from pipeline.probing import probes

FIRST_BATCH = 2  # the smallest over which a BatchNorm has a spread
PATIENCE_S = 0.5  # work whose first call took longer is not called again
CROWDED, CROWD_CHECK_S = 2.0, 0.03  # measured on two cores: 0.75 with one program, 7 to 1,700 with three
SAMPLE_OPERATIONS = 2e8  # multiplications of an epoch of the linear probe
SLOW_S = 0.1  # a probe whose first call took longer is not called again
FEWEST_TRAIN, MOST_TRAIN, SAMPLE_TEST, SAMPLE_EPOCHS, SAMPLE_DRAWS = 1024, 8192, 512, 4, 2
ROOT = Path(__file__).parents[2]
Measurement = TypeVar("Measurement")


class ProbeTime(NamedTuple):
    """Seconds of the probes on one kind of features."""

    linear_s: float
    knn_s: float
    few_shot_s: float


def seconds_a_call(work: Callable[[int], Any], full: int, budget_s: float, device: torch.device) -> tuple[float, int]:
    """Time work(batch) with the largest batch, at most `full`, of which three calls fit into the budget.

    Args:
        work: processes so many images.
        full: batch of the real run.
        budget_s: of all timed calls; one call of FIRST_BATCH images is made however long it takes.
        device: waited for before the clock is read.

    Returns:
        Seconds of the quickest call, and its batch. The quickest, because another program that takes a core for a
        moment makes a small step many times slower.
    """
    batch = min(full, FIRST_BATCH)
    cold_s = seconds(work, batch, device)  # allocations, kernels chosen on first use
    if cold_s > PATIENCE_S:
        return cold_s, batch
    while True:
        times = [seconds(work, batch, device) for _ in range(2)]
        larger = min(full, int(batch * budget_s / (3 * min(times))))
        if larger < min(2 * batch, full) or batch == full:
            break
        batch = larger  # small batches are slow for their size, so what seemed to be the limit may not be
        seconds(work, batch, device)
    while sum(times) + times[-1] < budget_s:
        times.append(seconds(work, batch, device))
    return min(times), batch


def seconds(work: Callable[[int], Any], argument: int, device: torch.device) -> float:
    """Time one call; waits for the device."""
    clock = time.perf_counter if device.type == "cuda" else _clock()
    started = clock()
    work(argument)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return clock() - started


def undisturbed(measurement: Callable[[], Measurement]) -> tuple[Measurement, bool]:
    """Make a measurement; with one thread and its processor time if other programs keep the cores busy.

    Threads that wait for each other at every operation are then hundreds of times slower, for as long as the others
    run, which says nothing about an hour of work. One thread is at most so many times too slow as there are cores.

    Returns:
        The measurement, and whether it was made with one thread.
    """
    if not crowded():
        found = measurement()
        if not crowded():
            return found, False
    with one_thread():
        return measurement(), True


def crowded() -> bool:
    """Whether all threads together are slower than one: on an idle machine they never are, by far."""
    if torch.get_num_threads() == 1:
        return False
    together_s = _seconds_an_operation()
    with one_thread():
        return together_s > CROWDED * _seconds_an_operation()


def _seconds_an_operation() -> float:
    values, count = torch.zeros(2**17), 0
    values.add_(1)
    clock, started, until = _clock(), _clock()(), time.perf_counter() + CROWD_CHECK_S
    while not count or time.perf_counter() < until:
        values.add_(1)
        count += 1
    return (clock() - started) / count


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch compute with one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _clock() -> Callable[[], float]:
    """Processor time of a single thread does not run while another program has the core."""
    return time.process_time if torch.get_num_threads() == 1 else time.perf_counter


def probe_seconds(
    *, num_train: int, num_test: int, num_classes: int, dim: int, device: str, settings: dict[str, Any]
) -> ProbeTime:
    """Estimate how long the frozen probes take on one kind of features, from runs on a sample of random ones.

    An epoch of the linear probe grows with N, k-NN with N M, the rest of few-shot ridge with N + M.

    Args:
        num_train: N.
        num_test: M.
        num_classes: C.
        dim: D.
        device: as in params.yaml.
        settings: linear, knn and few_shot of the `probe` section.
    """
    where, linear, few_shot = choose_device(device, quiet=True), dict(settings["linear"]), dict(settings["few_shot"])
    epochs, draws, every_shots = linear.pop("epochs"), few_shot.pop("num_draws"), few_shot.pop("shots")
    classifiers = len(linear["learning_rates"]) * len(linear["weight_decays"])
    enough = min(int(SAMPLE_OPERATIONS / (classifiers * num_classes * dim)), MOST_TRAIN)
    few, few_test = min(num_train, max(enough, FEWEST_TRAIN, 2 * num_classes)), min(num_test, SAMPLE_TEST)
    train, test = (
        probes.Split(torch.randn(num, dim, device=where), torch.arange(num, device=where) % num_classes)
        for num in (few, few_test)
    )
    common = {"num_classes": num_classes, "seed": 0}

    def quickest(work: Callable[[int], Any]) -> float:
        first_s = seconds(work, 0, where)
        return first_s if first_s > SLOW_S else min(first_s, seconds(work, 0, where))

    def linear_s(epochs: int) -> float:
        return quickest(lambda _: probes.linear_probe(train, test, epochs=epochs, holdout_frac=0.2, **linear, **common))

    def few_draws(_: int) -> None:
        for shots in every_shots:
            drawn = min(shots, few // num_classes)
            probes.few_shot_probe(train, test, shots=drawn, num_draws=SAMPLE_DRAWS, **few_shot, **common)

    once_s = epoch_s = linear_s(1)
    if once_s < SLOW_S:  # else the epoch itself takes most of it
        epoch_s = max(linear_s(SAMPLE_EPOCHS) - once_s, 0.0) / (SAMPLE_EPOCHS - 1)
    knn_s = quickest(lambda _: probes.knn_probe(train, test, num_classes=num_classes, **settings["knn"]))
    return ProbeTime(
        (once_s + (epochs - 1) * epoch_s) * num_train / few,
        knn_s * num_train * num_test / (few * few_test),
        quickest(few_draws) * draws / SAMPLE_DRAWS * (num_train + num_test) / (few + few_test),
    )


def decode_seconds(files: Sequence[bytes], canvas: tuple[int, int, int]) -> float:
    """Return the seconds that one thread takes to decode one of some PNG or JPEG files to a canvas (C, H, W)."""
    pixels, started = np.empty(canvas, np.uint8), time.perf_counter()
    for file in files:
        decode(file, pixels)
    return (time.perf_counter() - started) / len(files)


def start_seconds() -> float:
    """Return how long a program of the pipeline takes until its libraries are loaded, measured on pretraining's."""
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import stages.pretrain"], cwd=ROOT, check=True)
    return time.perf_counter() - started
