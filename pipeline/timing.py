"""Short measurements with the clock: a batch of work, the probes, decoding, and how long a program takes to start.

Legend: N images of a split, D features.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch

from pipeline import probes
from pipeline.datasets import EncodedImages

FIRST_BATCH = 2  # the smallest over which a BatchNorm has a spread
PATIENCE_S = 2.0  # work whose first call took longer is not called again
SAMPLE_TRAIN, SAMPLE_TEST = 8192, 2048  # features that stand for larger splits in the measurement of the probes
SAMPLE_EPOCHS, SAMPLE_DRAWS = 4, 2
SAMPLE_DECODED = 64
CROWDED, CROWD_CHECK_S = 2.0, 0.03  # measured on two cores: 0.75 with one program, 7 to 1,700 with three
ROOT = Path(__file__).parents[1]
Measurement = TypeVar("Measurement")


def seconds_a_call(work: Callable[[int], Any], full: int, budget_s: float, device: torch.device) -> tuple[float, int]:
    """Time work(batch) with the largest batch, at most `full`, of which three calls fit into the budget.

    Args:
        work: processes so many images.
        full: batch of the real run.
        budget_s: of all timed calls; one call of FIRST_BATCH images is made however long it takes, and if that is
            less than PATIENCE_S, so are two more.
        device: waited for before the clock is read.

    Returns:
        Seconds of the quickest call, and its batch. The quickest, because another program that takes a core for a
        moment makes a small step many times slower.
    """
    batch = min(full, FIRST_BATCH)
    cold = seconds(work, batch, device)  # allocations, kernels chosen on first use
    if cold > PATIENCE_S:
        return cold, batch
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
    together = _seconds_an_operation()
    with one_thread():
        return together > CROWDED * _seconds_an_operation()


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


def seconds(work: Callable[[int], Any], argument: int, device: torch.device) -> float:
    """Time one call; waits for the device."""
    clock = time.perf_counter if device.type == "cuda" else _clock()
    started = clock()
    work(argument)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return clock() - started


def probe_seconds(num_train: int, num_test: int, dim: int, num_classes: int, settings: dict[str, Any]) -> float:
    """Estimate how long `probes.evaluate` takes on one kind of features.

    A few epochs of the linear probe and a few draws of each number of shots are measured, on at most SAMPLE_TRAIN and
    SAMPLE_TEST random features, and scaled: by epochs and draws, all by N, k-NN by the product of both splits' numbers.

    Args:
        num_train, num_test: images of the splits.
        dim: D of the features.
        num_classes: of the set.
        settings: the `probe` section of params.yaml, without batch_size.
    """
    few, few_test = max(min(num_train, SAMPLE_TRAIN), 2 * num_classes), min(num_test, SAMPLE_TEST)
    train, test = (probes.Split(torch.randn(num, dim), torch.arange(num) % num_classes) for num in (few, few_test))
    common = {"num_classes": num_classes, "seed": 0}
    linear, few_shot = dict(settings["linear"]), dict(settings["few_shot"])
    epochs, draws, every_shots = linear.pop("epochs"), few_shot.pop("num_draws"), few_shot.pop("shots")
    few_epochs, few_draws = min(epochs, SAMPLE_EPOCHS), min(draws, SAMPLE_DRAWS)
    holdout_frac = settings["holdout_frac"]

    def few_epochs_linear(_: int) -> None:
        probes.linear_probe(train, test, epochs=few_epochs, holdout_frac=holdout_frac, **linear, **common)

    def knn(_: int) -> None:
        probes.knn_probe(train, test, num_classes=num_classes, **settings["knn"])

    def few_draws_each(_: int) -> None:
        for shots in every_shots:
            drawn = min(shots, few // num_classes)
            probes.few_shot_probe(train, test, shots=drawn, num_draws=few_draws, **few_shot, **common)

    linear_s, knn_s, few_shot_s = (_quickest(work) for work in (few_epochs_linear, knn, few_draws_each))
    by_images = linear_s * epochs / few_epochs + few_shot_s * draws / few_draws
    return (by_images + knn_s * num_test / few_test) * num_train / few


def _quickest(work: Callable[[int], Any]) -> float:
    return min(seconds(work, 0, torch.device("cpu")) for _ in range(3))


def decode_seconds(folder: Path, load_px: int) -> float:
    """Return the seconds that one thread takes to read and decode an image of a packed data set."""
    images = EncodedImages(folder, "train", load_px=load_px)
    chosen = torch.linspace(0, len(images) - 1, min(SAMPLE_DECODED, len(images))).long().tolist()
    started = time.perf_counter()
    for index in chosen:
        images.decode(index)
    return (time.perf_counter() - started) / len(chosen)


def start_seconds() -> float:
    """Return how long a program of the pipeline takes until its libraries are loaded, measured on pretraining's."""
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import stages.pretrain"], cwd=ROOT, check=True)
    return time.perf_counter() - started
