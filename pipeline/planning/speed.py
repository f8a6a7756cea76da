"""How fast this machine trains and embeds with a backbone: a few real steps on random images, in seconds an operation.

Operations are those of a forward pass, counted without computing anything. They carry a measurement over to other
numbers of views and images, and to backbones that are too large, or too many, to be timed one by one.

Legend: B images a step, V views, C channels, H x W canvas px.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, lru_cache
from typing import Any, NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode

from pipeline import features
from pipeline.catalogue.validation import did_you_mean
from pipeline.core.seeds import generator
from pipeline.data.packed import ImageBatch
from pipeline.distributed.devices import choose_autocast, choose_device
from pipeline.losses.objective import LeJEPA, RunObjective
from pipeline.models import backbones
from pipeline.models.projector import project_views
from pipeline.planning.timing import FIRST_BATCH, seconds, seconds_a_call
from pipeline.runtime.errors import UserError
from pipeline.training.learner import build_learner
from pipeline.views.multicrop import Multicrop
from pipeline.zoo.families import family_of

MEMORY_BYTES = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
BYTES_A_PARAM = 16  # float32 weight, gradient and the two moments of AdamW
FULL_BATCH = 64  # larger steps take time in proportion
# A backbone above the first is not run on a CPU, one of many not above the second; the stand-in of its family is.
LARGEST_OPERATIONS, LARGEST_OF_MANY = 2e10, 2e8
STAND_INS = {
    "convnext": "convnext_nano",
    "efficientnet": "efficientnet_b0",
    "inception": "inception_next_atto",
    "levit": "levit_192",
    "maxvit": "maxvit_pico_rw_256",
    "maxxvit": "maxxvit_rmlp_nano_rw_256",
    "resnet": "resnet26d",
    "": "vit_small_patch16_224",
}
STAND_IN_PX = 224
COSTLY_OPERATIONS = 1e10  # two images with more are timed with one view of each size


class SpeedError(UserError):
    """A backbone that cannot be measured here; the message says why."""


@dataclass(frozen=True)
class Load:
    """What decides the speed of a backbone; equal loads are measured once.

    Attributes:
        backbone: timm name.
        settings: JSON of what matters in the `pretrain` section.
        sample: JSON of the whole section, of the cell that is measured for all.
        canvas: (C, H, W) of that cell's images.
    """

    backbone: str
    settings: str
    sample: str = field(compare=False)
    canvas: tuple[int, int, int] = field(compare=False)

    @classmethod
    def of(cls, backbone: str, pretrain: dict[str, Any], canvas: tuple[int, int, int]) -> Load:
        """Keep what decides the time of an operation."""
        kept = {name: pretrain[name] for name in ("backbone", "device", "precision", "channels_last")}
        kept |= {"sizes": list(view_counts(pretrain["views"])), "batch_size": min(pretrain["batch_size"], FULL_BATCH)}
        # Compilation takes minutes; the paper's heuristics are added as operations.
        plain = {**pretrain, "compile": False, "predictor": {"enabled": False}, "swa": {"enabled": False}}
        return cls(backbone, json.dumps(kept, sort_keys=True), json.dumps(plain, sort_keys=True), canvas)


class Sketch(NamedTuple):
    """A backbone that was never run. operations: of a forward pass of one view in training, by its side in px."""

    arguments: dict[str, Any]
    num_params: int
    embed_dim: int
    operations: dict[int, int]


class Timing(NamedTuple):
    """Seconds an operation in training and in embedding, seconds a parameter of a step of the optimiser."""

    train_s: float
    embed_s: float
    update_s: float


class Speed(NamedTuple):
    """Sketch of a load's backbone, and the timing of `timed`, which is the same backbone or its stand-in."""

    sketch: Sketch
    timing: Timing
    timed: str

    def train_s(self, num_views: dict[int, float]) -> float:
        """Return seconds of training for so many views of each size, without the optimiser's step."""
        return self.timing.train_s * sum(count * self.sketch.operations[px] for px, count in num_views.items())

    def embed_s(self, size_px: int) -> float:
        """Return seconds for one image through the frozen backbone."""
        return self.timing.embed_s * self.sketch.operations[size_px]

    @property
    def update_s(self) -> float:
        """Seconds of one step of the optimiser."""
        return self.timing.update_s * self.sketch.num_params


def view_counts(views: dict[str, Any]) -> dict[int, int]:
    """Return the number of views an image by their side in px, the global ones first."""
    sizes = {views["global_px"]: views["num_global"]}
    if views["num_local"]:
        sizes[views["local_px"]] = sizes.get(views["local_px"], 0) + views["num_local"]
    return sizes


def timed_load(load: Load, *, of_many: bool = False) -> Load:
    """Return the load that is timed for this one: itself, or that of a stand-in.

    Args:
        load: of a cell.
        of_many: whether there are too many loads to time each of them.

    Raises:
        SpeedError, BackboneError: the backbone does not exist, does not fit its views, or not into memory.
    """
    if not backbones.is_known(load.backbone):
        hint = did_you_mean(load.backbone, backbones.known_backbones())
        raise SpeedError(f"unknown backbone {load.backbone!r} in grid.backbones{hint}")
    device, found = choose_device(json.loads(load.settings)["device"], quiet=True), sketch(load)
    _stop_if_too_large(load.backbone, found.num_params, device)
    largest = LARGEST_OF_MANY if of_many else LARGEST_OPERATIONS if device.type == "cpu" else float("inf")
    return load if max(found.operations.values()) <= largest else stand_in(load)


def stand_in(load: Load) -> Load:
    """Return a load of the stand-in of a backbone's family, with one view of STAND_IN_PX and nothing special."""
    sample = json.loads(load.sample)
    sample["backbone"] = {"patch_size": None, "drop_path_rate": 0.0, "kwargs": {}}
    sample["views"] |= {"num_global": 1, "num_local": 0, "global_px": STAND_IN_PX}
    sample["batch_size"] = FULL_BATCH
    name = STAND_INS.get(family_of(load.backbone), STAND_INS[""])
    return Load.of(name, sample, (3, STAND_IN_PX, STAND_IN_PX))


@cache
def sketch(load: Load) -> Sketch:
    """Build a backbone without memory and count.

    Raises:
        BackboneError: which setting to change, if the backbone does not fit its views.
    """
    settings = json.loads(load.settings)
    asked, sizes, batch_size = settings["backbone"], settings["sizes"], settings["batch_size"]
    asked["kwargs"] = {name: value for name, value in asked["kwargs"].items() if value is not None}
    arguments = backbones.backbone_arguments(load.backbone, img_size=sizes[0], **asked)
    try:
        with torch.device("meta"):
            backbone = backbones.create_backbone(load.backbone, arguments).train().requires_grad_(False)
            counted = {px: _operations(backbone, px) for px in sizes}
    except (RuntimeError, ValueError, AssertionError, IndexError):
        local_px = sizes[1] if len(sizes) > 1 else None
        backbones.check_backbone(load.backbone, arguments, global_px=sizes[0], local_px=local_px, batch_size=batch_size)
        raise
    num_params = sum(parameter.numel() for parameter in backbone.parameters())
    return Sketch(arguments, num_params, counted[sizes[0]][1], {px: count for px, (count, _) in counted.items()})


def _operations(backbone: torch.nn.Module, size_px: int) -> tuple[int, int]:
    with FlopCounterMode(display=False) as counter:
        embedding: torch.Tensor = backbone(torch.empty(FIRST_BATCH, 3, size_px, size_px))
    return counter.get_total_flops() // FIRST_BATCH, embedding.shape[-1]


def _stop_if_too_large(name: str, num_params: int, device: torch.device) -> None:
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else MEMORY_BYTES
    if num_params * BYTES_A_PARAM > free:
        raise SpeedError(
            f"backbone {name!r} needs more than {num_params * BYTES_A_PARAM / 1e9:.0f} GB to train; "
            f"{device} has {free / 1e9:.0f} GB"
        )


def measure(load: Load, budget_s: float) -> Timing:
    """Time training and embedding.

    Args:
        load: what to time.
        budget_s: about how long each of the two may take; a slow backbone gets one step of a few images.

    Raises:
        SpeedError: it does not fit into the memory of a GPU.
    """
    try:
        return _time(load, budget_s)
    except torch.OutOfMemoryError:
        raise SpeedError(f"backbone {load.backbone!r} does not fit into the memory of the device") from None


def _time(load: Load, budget_s: float) -> Timing:
    settings, found = json.loads(load.sample), sketch(load)
    device, views = choose_device(settings["device"], quiet=True), settings["views"]
    autocast = choose_autocast(settings["precision"], device)
    if device.type == "cpu" and FIRST_BATCH * _an_image(found, views) > COSTLY_OPERATIONS:
        views |= {"num_global": 1, "num_local": min(views["num_local"], 1)}
    config = {"backbone": load.backbone, "backbone_kwargs": found.arguments, "embed_dim": found.embed_dim, "seed": 0}
    learner = build_learner({**config, "pretrain": settings}, device)

    def embed(num_images: int) -> None:
        reading = {"size_px": views["global_px"], "mean": views["mean"], "std": views["std"], "num_workers": 0}
        images = random_images(num_images, load.canvas, "cpu")
        features.embeddings(
            learner.backbone, images, batch_size=num_images, device=device, autocast=autocast, **reading
        )

    step = _training_step(learner, load.canvas, settings, device, autocast)
    embedding_s, embedded = seconds_a_call(embed, FULL_BATCH, budget_s / 3, device)
    step_s, batch = seconds_a_call(step, settings["batch_size"], budget_s, device)
    update_s = min(seconds(lambda _: learner.optimizer.step(), 0, device) for _ in range(2))
    return Timing(
        train_s=max(step_s - update_s, 0.0) / (batch * _an_image(found, views)),
        embed_s=embedding_s / (embedded * found.operations[views["global_px"]]),
        update_s=update_s / found.num_params,
    )


def _an_image(found: Sketch, views: dict[str, Any]) -> int:
    return sum(count * found.operations[px] for px, count in view_counts(views).items())


def _training_step(
    learner: Any, canvas: tuple[int, int, int], settings: dict, device: torch.device, autocast: torch.autocast
) -> Callable[[int], None]:
    """Return a function that takes one real training step on so many random images."""
    make_views, num_global = Multicrop(**settings["views"]), settings["views"]["num_global"]
    objective = RunObjective(LeJEPA(**settings["sigreg"]), lamb=0.05, num_global=num_global, seed=0)

    def step(num_images: int) -> None:
        images, draws = random_images(num_images, canvas, device), generator(0, "views", device=device)
        views = [group for group in make_views(images.pixels, images.aspect, generator=draws) if group is not None]
        with autocast:
            projections = project_views(learner.backbone, learner.projector, views)
        learner.step(objective(projections, 0)["loss"], 1e-6)

    return step


@lru_cache(maxsize=1)  # making them is not what is timed
def random_images(num_images: int, canvas: tuple[int, int, int], device: torch.device | str) -> ImageBatch:
    """Return (num_images, C, H, W) uint8 noise."""
    pixels = torch.randint(0, 256, (num_images, *canvas), dtype=torch.uint8, device=device)
    return ImageBatch(pixels, torch.ones(num_images, device=device), torch.zeros(num_images, dtype=torch.int64))
