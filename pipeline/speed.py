"""How fast this machine trains and embeds with a backbone, from a few steps.

Everything measured is the code of a real run on random images; nothing is written to disk.

Legend: B images a step, V views, N images of a split, D embedding, C channels, H x W canvas px.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode

from pipeline import backbones, features, training
from pipeline.datasets import ImageBatch
from pipeline.devices import choose_autocast, choose_device
from pipeline.errors import UserError
from pipeline.seeds import generator
from pipeline.timing import seconds, seconds_a_call
from pipeline.validation import did_you_mean
from pipeline.views import Multicrop

BYTES_A_PARAM = 16  # float32 weight, gradient and the two moments of AdamW
# On a CPU a backbone with more parameters is not run: minutes would pass and much memory be taken for one step. Its
# speed is that of the stand-in, for the same views, divided by the ratio of their floating point operations.
LARGEST_MEASURED_PARAMS, STAND_IN = 150_000_000, "vit_base_patch16_224"
STAND_IN_KWARGS = {"dynamic_img_pad": True}  # it must take views that 16 px patches do not divide


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
    measured_batch: images a step in the measurement; B is scaled from it where it is smaller; 0 if another backbone
    was measured in its stead.
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
    if device.type == "cpu" and num_params > LARGEST_MEASURED_PARAMS:
        return _by_operations(load, settings, arguments, num_params, budget_s)
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
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else _memory_bytes()
    if free is not None and num_params * BYTES_A_PARAM > free:
        raise SpeedError(
            f"backbone {name!r} needs more than {num_params * BYTES_A_PARAM / 1e9:.0f} GB to train; "
            f"{device} has {free / 1e9:.0f} GB"
        )


def _memory_bytes() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemTotal")), None)


def _by_operations(load: Load, settings: dict, arguments: dict, num_params: int, budget_s: float) -> Speed:
    views = settings["views"]
    plain = {**settings, "backbone": {"patch_size": None, "drop_path_rate": 0.0, "kwargs": STAND_IN_KWARGS}}
    stand_in = _stand_in(
        Load(STAND_IN, load.canvas, json.dumps(plain, sort_keys=True), load.probe_batch_size), budget_s
    )
    stand_in_arguments = backbones.backbone_arguments(STAND_IN, img_size=views["global_px"], kwargs=STAND_IN_KWARGS)

    def ratio(num_global: int, num_local: int) -> float:
        sizes = {views["global_px"]: num_global} | ({views["local_px"]: num_local} if num_local else {})
        large, small = (
            sum(count * operations(name, given, px)[0] for px, count in sizes.items())
            for name, given in ((load.backbone, arguments), (STAND_IN, stand_in_arguments))
        )
        return large / small

    return Speed(
        num_params,
        operations(load.backbone, arguments, views["global_px"])[1],
        stand_in.step_s * ratio(views["num_global"], views["num_local"]),
        0,
        stand_in.embed_image_s * ratio(1, 0),
        num_params * 12,
    )


@lru_cache
def _stand_in(load: Load, budget_s: float) -> Speed:
    return measure(load, budget_s)


def operations(name: str, arguments: dict[str, Any], size_px: int) -> tuple[int, int]:
    """Return floating point operations of a forward pass of one image, and D, without computing anything."""
    with torch.device("meta"):
        backbone = backbones.create_backbone(name, arguments).eval()
        with FlopCounterMode(display=False) as counter:
            embedding: torch.Tensor = backbone(torch.empty(1, 3, size_px, size_px))
    return counter.get_total_flops(), embedding.shape[-1]


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
    update_s = seconds(lambda _: learner.optimizer.step(), 0, device)  # does not grow with the batch
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
