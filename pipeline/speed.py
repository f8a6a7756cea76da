"""How fast this machine works: short measurements of training steps, embeddings, probes, decoding and imports.

Everything measured is the code of a real run on random images; nothing is written to disk.

Legend: B images a step, V views, N images of a split, D embedding, C channels, H x W canvas px.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch

from pipeline import backbones, features, probes, training
from pipeline.datasets import EncodedImages, ImageBatch
from pipeline.devices import choose_autocast, choose_device
from pipeline.errors import UserError
from pipeline.seeds import generator
from pipeline.validation import did_you_mean
from pipeline.views import Multicrop

FIRST_BATCH = 2  # the smallest over which a BatchNorm has a spread
BYTES_A_PARAM = 16  # float32 weight, gradient and the two moments of AdamW
SAMPLE_TRAIN, SAMPLE_TEST = 8192, 2048  # features that stand for larger splits in the measurement of the probes
SAMPLE_DECODED = 64
PATIENCE_S = 2.0
ROOT = Path(__file__).parents[1]


class SpeedError(UserError):
    """A backbone that cannot be measured here; the message says why."""


@dataclass(frozen=True)
class Load:
    """What decides the speed of a cell; cells with equal loads are measured once.

    settings is the JSON of the `pretrain` section without what does not matter here; canvas is (C, H, W).
    """

    backbone: str
    canvas: tuple[int, int, int]
    settings: str
    probe_batch_size: int

    @classmethod
    def of(cls, backbone: str, canvas: tuple[int, int, int], pretrain: dict[str, Any], probe_batch_size: int) -> Load:
        """Keep what matters: not how long, nor how large a step the optimiser takes, nor how images are loaded."""
        kept = {key: value for key, value in pretrain.items() if key not in ("epochs", "schedule", "loader", "load_px")}
        kept["optimizer"] = {**pretrain["optimizer"], "lr": 1e-6, "weight_decay": 0.0}
        return cls(backbone, canvas, json.dumps(kept, sort_keys=True), probe_batch_size)


class Speed(NamedTuple):
    """What was measured of one load.

    step_s: one training step of B images, all views. embed_image_s: one image through the frozen backbone.
    measured_batch: images a step in the measurement; B is scaled from it where it is smaller.
    """

    num_params: int
    embed_dim: int
    step_s: float
    measured_batch: int
    embed_image_s: float
    checkpoint_bytes: int


def measure(load: Load, budget_s: float) -> Speed:
    """Measure training and embedding of one load.

    Args:
        load: what to measure.
        budget_s: about how long each of the two may take; a slow backbone gets one step of a few images.

    Raises:
        SpeedError, BackboneError: the backbone does not exist, does not fit its views, or not into memory.
    """
    settings = json.loads(load.settings)
    if not backbones.is_known(load.backbone):
        hint = did_you_mean(load.backbone, backbones.known_backbones())
        raise SpeedError(f"unknown backbone {load.backbone!r} in grid.backbones{hint}")
    device = choose_device(settings["device"])
    global_px, batch_size = settings["views"]["global_px"], settings["batch_size"]
    arguments = backbones.backbone_arguments(load.backbone, img_size=global_px, **settings["backbone"])
    num_params = count_params(load.backbone, arguments)
    _stop_if_too_large(load.backbone, num_params, device)
    try:
        return _measure(load, settings, arguments, num_params, device, budget_s)
    except torch.OutOfMemoryError:
        raise SpeedError(f"backbone {load.backbone!r} does not fit into the memory of {device}") from None
    except (RuntimeError, ValueError, AssertionError, IndexError):
        # Says which setting to change, if it is the backbone that does not fit the views.
        local_px = settings["views"]["local_px"] if settings["views"]["num_local"] else None
        backbones.check_backbone(
            load.backbone, arguments, global_px=global_px, local_px=local_px, batch_size=batch_size
        )
        raise


def count_params(name: str, arguments: dict[str, Any]) -> int:
    """Count the parameters of a backbone without making them."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in backbones.create_backbone(name, arguments).parameters())


def _stop_if_too_large(name: str, num_params: int, device: torch.device) -> None:
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else _free_bytes()
    if free is not None and num_params * BYTES_A_PARAM > free:
        raise SpeedError(
            f"backbone {name!r} needs more than {num_params * BYTES_A_PARAM / 1e9:.0f} GB to train; "
            f"{free / 1e9:.0f} GB of {device} memory are free"
        )


def _free_bytes() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")), None)


def _measure(
    load: Load, settings: dict, arguments: dict, num_params: int, device: torch.device, budget_s: float
) -> Speed:
    backbone = backbones.create_backbone(load.backbone, arguments)
    autocast = choose_autocast(settings["precision"], device)
    views, batch_size = settings["views"], settings["batch_size"]

    def embed(num_images: int) -> torch.Tensor:
        reading = {"size_px": views["global_px"], "mean": views["mean"], "std": views["std"], "num_workers": 0}
        images = random_images(num_images, load.canvas, "cpu")
        return features.embeddings(backbone, images, batch_size=num_images, device=device, autocast=autocast, **reading)

    embed_dim = embed(1).shape[1]
    embed_s, embedded = seconds_a_call(embed, load.probe_batch_size, budget_s / 3, device)
    projector = backbones.make_projector(embed_dim, **settings["projector"])
    learner = training.make_learner(backbone, projector, device, settings["optimizer"])
    step = _training_step(learner, load, settings, device, autocast)
    step_s, measured = seconds_a_call(step, batch_size, budget_s, device)
    update_s = _seconds(lambda _: learner.optimizer.step(), 0, device)  # does not grow with the batch
    if measured < batch_size:
        step_s = max(step_s - update_s, 0.0) * batch_size / measured + update_s
    state_bytes = sum(p.numel() for module in (backbone, projector) for p in module.parameters()) * 12
    return Speed(num_params, embed_dim, step_s, measured, embed_s / embedded, state_bytes)


def _training_step(
    learner: training.Learner, load: Load, settings: dict, device: torch.device, autocast: torch.autocast
) -> Callable[[int], None]:
    """Return a function that takes one real training step on so many random images."""
    make_views = Multicrop(**settings["views"])
    objective = training.lejepa_objective(
        lamb=0.05,
        num_global=settings["views"]["num_global"],
        seed=0,
        proj_dim=settings["projector"]["proj_dim"],
        **settings["sigreg"],
    )

    def step(num_images: int) -> None:
        images = random_images(num_images, load.canvas, device)
        global_views, local_views = make_views(
            images.pixels, images.aspect, generator=generator(0, "views", device=device)
        )
        groups = [global_views] if local_views is None else [global_views, local_views]
        with autocast:
            projections = training.project_views(learner.backbone, learner.projector, groups)
        learner.step(objective(projections, 0).loss, settings["optimizer"]["lr"])

    return step


@lru_cache(maxsize=1)  # making them is not what is timed
def random_images(num_images: int, canvas: tuple[int, int, int], device: torch.device | str) -> ImageBatch:
    """Return (num_images, C, H, W) uint8 noise."""
    pixels = torch.randint(0, 256, (num_images, *canvas), dtype=torch.uint8, device=device)
    return ImageBatch(pixels, torch.ones(num_images, device=device), torch.zeros(num_images, dtype=torch.int64))


def seconds_a_call(work: Callable[[int], Any], full: int, budget_s: float, device: torch.device) -> tuple[float, int]:
    """Time work(batch) with the largest batch, at most `full`, of which three calls fit into the budget.

    Args:
        work: processes so many images.
        full: batch of the real run.
        budget_s: of all timed calls; one call of FIRST_BATCH images is made however long it takes, and if that is
            less than PATIENCE_S, so are two more.
        device: waited for before the clock is read.

    Returns:
        Median seconds a call, and its batch.
    """
    batch = min(full, FIRST_BATCH)
    cold = _seconds(work, batch, device)  # allocations, kernels chosen on first use
    if cold > PATIENCE_S:
        return cold, batch
    while True:
        times = [_seconds(work, batch, device) for _ in range(2)]
        larger = min(full, int(batch * budget_s / (3 * min(times))))
        if larger < min(2 * batch, full) or batch == full:
            break
        batch = larger  # small batches are slow for their size, so what seemed to be the limit may not be
        _seconds(work, batch, device)
    while sum(times) + times[-1] < budget_s:
        times.append(_seconds(work, batch, device))
    return statistics.median(times), batch


def _seconds(work: Callable[[int], Any], argument: int, device: torch.device) -> float:
    started = time.perf_counter()
    work(argument)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


def probe_seconds(num_train: int, num_test: int, dim: int, num_classes: int, settings: dict[str, Any]) -> float:
    """Estimate how long `probes.evaluate` takes on one kind of features.

    Few epochs of the linear probe and one draw a shot are measured, on at most SAMPLE_TRAIN and SAMPLE_TEST random
    features, and scaled: everything by the number of images, k-NN by the product of both splits' numbers.

    Args:
        num_train, num_test: images of the splits.
        dim: D of the features.
        num_classes: of the set.
        settings: the `probe` section of params.yaml, without batch_size.
    """
    few = max(min(num_train, SAMPLE_TRAIN), 2 * num_classes)
    few_test = min(num_test, SAMPLE_TEST)
    train, test = (probes.Split(torch.randn(num, dim), torch.arange(num) % num_classes) for num in (few, few_test))
    growth = num_train / few
    shots = sorted({min(shots, few // num_classes) for shots in settings["few_shot"]["shots"]})

    def evaluate(epochs: int, num_draws: int) -> float:
        short = {
            **settings,
            "linear": {**settings["linear"], "epochs": epochs},
            "few_shot": {**settings["few_shot"], "shots": shots, "num_draws": num_draws},
        }
        started = time.perf_counter()
        probes.evaluate(train, test, num_classes=num_classes, settings=short, seed=0)
        return time.perf_counter() - started

    started = time.perf_counter()
    probes.knn_probe(train, test, num_classes=num_classes, **settings["knn"])
    knn = time.perf_counter() - started
    evaluate(1, 1)  # a first call also chooses kernels
    once, epochs, draws = evaluate(1, 1), evaluate(3, 1), evaluate(1, 3)
    an_epoch, a_draw = max(epochs - once, 0) / 2, max(draws - once, 0) / 2
    linear = once + an_epoch * (settings["linear"]["epochs"] - 1) + a_draw * (settings["few_shot"]["num_draws"] - 1)
    return max(linear - knn, 0) * growth + knn * growth * num_test / few_test


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


def num_cpus() -> int:
    """Return the cores that decode."""
    return os.cpu_count() or 1
