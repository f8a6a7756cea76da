"""Seconds of a training step, of embedding and of a probe on this machine, within a budget of time and free memory.

Of what is too slow or too large less is timed, and scaled by operations; `Speed.origin` says so.

Legend: F operations of a forward pass of one view, D features.
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from math import log
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from pipeline.core.distributed.devices import choose_autocast, choose_device
from pipeline.core.seeds import generator
from pipeline.data.packed import ImageBatch
from pipeline.data.views.multicrop import Multicrop
from pipeline.losses.objective import build_objective
from pipeline.models import backbones, features
from pipeline.planning.inventory import Pipeline, Task
from pipeline.planning.set_facts import SetFacts
from pipeline.probing import probes
from pipeline.runtime.bars import bar
from pipeline.runtime.errors import UserError, did_you_mean
from pipeline.schema.parameters import Pretrain
from pipeline.schema.pretrain import Views
from pipeline.training.learner import build_learner
from pipeline.zoo.families import family_of

ROOT = Path(__file__).parents[2]
BUDGET_S, PATIENCE_S = 90.0, 0.5  # of all steps that are timed; what took longer is not timed again
FREE_FRAC = 0.6  # of the free memory that a timed step may take
BYTES_A_PARAM = 16  # float32 weight, gradient and the two moments of AdamW
FEWEST, EMBEDDED, PROBED = 2, 64, 1024  # images of the smallest step, of a pass of embedding, of a probe
STRIDE = 7  # members of a family stand beside each other in a grid
OUT_OF_MEMORY = re.compile(r"out of memory|not enough memory|can(no|')t allocate memory", re.IGNORECASE)  # of PyTorch
CGROUPS, OWN_CGROUP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")  # version 2
STAGE_S = 2.2  # of DVC and MLflow for a stage, on two cores: reports/LOG.md, 2026-11-21


class Speed(NamedTuple):
    """A backbone with what this machine makes of it.

    operations, num_bytes: F in training, and what is kept for the backward pass, by the side of a view in px. train_s,
    embed_s: seconds an operation, counted once for forward and backward pass. update_s: of a step of the optimiser a
    parameter. kept_frac: F in training over F of the frozen backbone, which drops no tokens (`patch_drop_rate`).
    """

    backbone: str
    arguments: dict[str, Any]
    num_params: int
    embed_dim: int
    operations: dict[int, int]
    num_bytes: dict[int, int]
    train_s: float = 0.0
    embed_s: float = 0.0
    update_s: float = 0.0
    origin: str = "measured"
    kept_frac: float = 1.0

    def step_s(self, operations: int, batch_size: int) -> float:
        """Return the seconds of a step of so many images of so many operations each."""
        return batch_size * operations * self.train_s + self.num_params * self.update_s

    def image_s(self, size_px: int) -> float:
        """Return the seconds of an image through the frozen backbone."""
        return self.embed_s * self.operations[size_px] / self.kept_frac

    def fits(self, views: Views, free_bytes: float) -> int:
        """Return of how many images a step fits into the memory."""
        return max(0, int((free_bytes - BYTES_A_PARAM * self.num_params) / an_image(self.num_bytes, views)))


def an_image(of_a_view: dict[int, int], views: Views) -> int:
    """Add up what the views of an image take."""
    return views.num_global * of_a_view[views.global_px] + views.num_local * of_a_view.get(views.local_px, 0)


def sketch(name: str, settings: Pretrain) -> Speed:
    """Count operations and bytes of a backbone without computing anything.

    Raises:
        UserError: it does not exist, or does not fit its views.
    """
    if not backbones.is_known(name):
        raise UserError(f"unknown backbone {name!r} in grid.backbones{did_you_mean(name, backbones.known_backbones())}")
    views = settings.views
    arguments = backbones.backbone_arguments(name, img_size=views.global_px, **settings.backbone.model_dump())
    local_px = views.local_px if views.num_local else None
    try:
        with torch.device("meta"):
            network = backbones.create_backbone(name, arguments).train()
            counted = {size_px: _count(network, size_px) for size_px in (local_px, views.global_px) if size_px}
            dropping = arguments.get("patch_drop_rate")
            frozen = _count(network.eval(), views.global_px) if dropping else counted[views.global_px]
    except (RuntimeError, ValueError, AssertionError, IndexError):
        checked = {"global_px": views.global_px, "local_px": local_px, "batch_size": settings.batch_size}
        backbones.check_backbone(name, arguments, **checked)
        raise
    num_params = sum(parameter.numel() for parameter in network.parameters())
    operations, num_bytes, dims = ({px: found[i] for px, found in counted.items()} for i in range(3))
    kept_frac = operations[views.global_px] / frozen[0]
    return Speed(name, arguments, num_params, dims[views.global_px], operations, num_bytes, kept_frac=kept_frac)


def _count(network: nn.Module, size_px: int) -> tuple[int, int, int]:
    """Return operations and kept bytes of a view, and the dimensions of its embedding."""
    with FlopCounterMode(display=False) as counter:
        kept, embedding = kept_for_backward(lambda: network(torch.empty(FEWEST, 3, size_px, size_px)), [network])
    return counter.get_total_flops() // FEWEST, kept // FEWEST, embedding.shape[-1]


def kept_for_backward(run: Callable[[], Tensor], modules: Iterable[nn.Module]) -> tuple[int, Tensor]:
    """Return the bytes that a forward pass keeps beside parameters and buffers of modules, and what it returns."""
    states = [tensor for module in modules for tensor in (*module.parameters(), *module.buffers())]
    own, kept = {state.untyped_storage()._cdata for state in states}, {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        result = run()  # held by the caller's name: what is freed would lend its place to another
    return sum(kept.values()), result


def time_shape(task: Task, found: Speed, budget_s: float) -> Speed | None:
    """Time a pass of embedding, then steps of as many images as fit into budget and memory, up to a batch.

    A step of two images that does not fit counts as three passes of embedding; None if the network itself does not.
    """
    settings, views = task.pretrain, task.pretrain.views
    device = choose_device(settings.device, quiet=True)
    autocast, free = choose_autocast(settings.precision, device), FREE_FRAC * free_bytes(device)
    if BYTES_A_PARAM / 2 * found.num_params > free:
        return None
    backbone = backbones.initial_backbone(task.backbone, found.arguments, seed=0)
    shape = {"lamb": 0.05, "num_global": views.num_global, "seed": 0}
    objective = build_objective(settings.objective, settings.objective_settings(), **shape)
    eager, what = settings.model_copy(update={"compile": False}), {"objective": objective.objective, "num_classes": 2}
    learner = build_learner(backbone, found.embed_dim, eager, device, **what)

    def embed(num_images: int) -> None:
        shown = (views.global_px, views.mean, views.std, num_images)
        reader = features.Reader(*shown, num_workers=0, device=device, autocast=autocast)
        features.embeddings(learner.backbone, _noise(num_images, task.canvas, torch.device("cpu")), reader)

    def step(num_images: int) -> None:
        draws, images = generator(0, "views", device=device), _noise(num_images, task.canvas, device)
        made = Multicrop(**views.model_dump())(images.pixels, generator=draws)
        groups = [group for group in made if group is not None]
        with autocast:
            projections, predictions = learner.project(groups)
            parts = {"predictions": predictions, "targets": learner.targets(groups[0])}
        learner.step(objective(projections, 0, labels=images.labels, **parts)["loss"], 1e-6)

    operations, most = an_image(found.operations, views), min(settings.batch_size, found.fits(views, free))
    num_images, embedded_s = largest_call(embed, max(FEWEST, min(EMBEDDED, most)), budget_s / 5, device)
    embedded = num_images * found.operations[views.global_px] / found.kept_frac
    found = found._replace(embed_s=embedded_s / embedded)
    whole = found._replace(train_s=3 * found.embed_s, origin="three passes of embedding")
    if most < FEWEST or FEWEST * whole.step_s(operations, 1) > budget_s / 2:
        return whole
    timed = whole
    with memory_permitting():
        num_images, step_s = largest_call(step, most, budget_s / 2, device)
        update_s = seconds(lambda _: learner.optimizer.step(), 0, device)
        train_s = max(0.0, step_s - update_s) / (num_images * operations)
        timed = found._replace(train_s=train_s, update_s=update_s / found.num_params)
        if num_images < settings.batch_size:
            timed = timed._replace(origin=f"a step of {num_images} of {settings.batch_size} images")
    return timed


@contextmanager
def memory_permitting() -> Iterator[None]:
    """End a block where the memory of the GPU or of the machine is too small; what it would have timed is scaled."""
    try:
        yield
    except MemoryError:
        return
    except RuntimeError as error:  # torch.OutOfMemoryError is one; a processor's allocator has no class of its own
        if not OUT_OF_MEMORY.search(str(error)):
            raise


def largest_call(work: Callable[[int], Any], most: int, budget_s: float, device: torch.device) -> tuple[int, float]:
    """Time calls with more and more images while one fits into the budget; return the last number and its seconds."""
    num_images = min(most, FEWEST)
    took_s = seconds(work, num_images, device)
    while num_images < most:
        larger = min(most, int(num_images * budget_s / took_s))
        if larger < most and larger < 2 * num_images:
            break
        num_images, took_s = larger, seconds(work, larger, device)
    return num_images, took_s


def seconds(work: Callable[[int], Any], argument: int, device: torch.device) -> float:
    """Time a call; a quick one again, since the first allocates and chooses kernels. Waits for the device.

    The processor time of a single thread does not run while another program has the core.
    """
    clock = time.process_time if device.type == "cpu" and torch.get_num_threads() == 1 else time.perf_counter
    times: list[float] = []
    while not times or (len(times) < 3 and sum(times) < PATIENCE_S):
        started = clock()
        work(argument)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(clock() - started)
    return min(times)


def _noise(num_images: int, canvas: tuple[int, int, int], device: torch.device) -> ImageBatch:
    pixels = torch.randint(0, 256, (1, *canvas), dtype=torch.uint8, device=device).repeat(num_images, 1, 1, 1)
    return ImageBatch(pixels, torch.zeros(num_images, dtype=torch.int64))


def free_bytes(device: torch.device) -> int:
    """Return the free memory of the device, within the limits of a container and of a batch system."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    free = psutil.virtual_memory().available
    for group in _cgroups():
        with suppress(OSError, ValueError):  # no such file, or "max": no limit
            free = min(free, int((group / "memory.max").read_text()) - int((group / "memory.current").read_text()))
    return free


def _cgroups() -> list[Path]:
    """Return the folders of this process's control group and of those around it, whose limits hold as well."""
    with suppress(OSError):
        lines = OWN_CGROUP.read_text(encoding="utf-8").splitlines()
        own = next((line.removeprefix("0::/") for line in lines if line.startswith("0::/")), "")
        return [CGROUPS / own, *(place for place in (CGROUPS / own).parents if place.is_relative_to(CGROUPS))]
    return [CGROUPS]


class Measured(NamedTuple):
    """What this machine does: seconds that any stage takes; by shape speeds, or why there is none; by probe seconds."""

    program_s: float
    speeds: dict[str, Speed]
    failures: dict[str, str]
    fits: dict[tuple, float]


def measure(pipelines: Iterable[Pipeline], budget_s: float = BUDGET_S) -> Measured:
    """Time whatever the stages that are left need, each thing once."""
    left = [task for pipeline in pipelines for task in pipeline.timed if not task.done]
    shapes: dict[str, Task] = {}
    for task in left:
        shapes.setdefault(task.shape, task)
    sketches, failures = {}, {}
    for shape, task in bar("counting operations", len(shapes), unit="shape", iterable=shapes.items(), disable=not left):
        try:
            sketches[shape] = sketch(task.backbone, task.pretrain)
        except UserError as error:
            failures[shape] = str(error)
    speeds = _timed(shapes, sketches, budget_s)
    for shape in sketches.keys() - speeds.keys():
        failures[shape] = f"{shapes[shape].backbone} does not fit into the free memory of this machine"
    fits: dict[tuple, float] = {}
    for task in left:
        if task.probe_set and not task.probe_done and task.shape in speeds and task.fit_key not in fits:
            fits[task.fit_key] = fit_seconds(task, task.probe_set, speeds[task.shape].embed_dim)
    return Measured(STAGE_S + (start_seconds() if left else 0.0), speeds, failures, fits)


def _timed(shapes: dict[str, Task], sketches: dict[str, Speed], budget_s: float) -> dict[str, Speed]:
    """Time shapes from all over the list until the budget is used up; scale the others from their nearest relative."""
    order = [shape for first in range(STRIDE) for shape in list(sketches)[first::STRIDE]]
    timed: dict[str, Speed] = {}
    until = time.monotonic() + budget_s
    for index, shape in enumerate(bar("timing steps", len(order), unit="shape", iterable=order, disable=not order)):
        share_s = (until - time.monotonic()) / (len(order) - index)
        if share_s > 0:
            with memory_permitting():
                if found := time_shape(shapes[shape], sketches[shape], share_s):
                    timed[shape] = found
    scaled: dict[str, Speed] = {}
    for shape, one in sketches.items():
        if shape not in timed and timed:
            near = min(timed.values(), key=lambda other: _distance(one, other))
            rates = {"train_s": near.train_s, "embed_s": near.embed_s, "update_s": near.update_s}
            scaled[shape] = one._replace(origin=f"the operations of {near.backbone}", **rates)
    return timed | scaled


def _distance(one: Speed, other: Speed) -> tuple[bool, float]:
    """Rank relatives: a family's own members first, then by their operations."""
    ratio = max(one.operations.values()) / max(other.operations.values())
    return family_of(one.backbone) != family_of(other.backbone), abs(log(ratio))


def start_seconds() -> float:
    """Return how long a program takes until its libraries are loaded."""
    started = time.perf_counter()
    loads = "import pipeline.training.loop, pipeline.tracking.store, timm"
    subprocess.run([sys.executable, "-c", loads], cwd=ROOT, check=True)
    return time.perf_counter() - started


def fit_seconds(task: Task, facts: SetFacts, dim: int) -> float:
    """Estimate the frozen probes' seconds for each of D features by an epoch on random ones.

    Neighbours and few shots, a third of it (reports/LOG.md, 2026-11-21), are added as such.
    """
    device, linear = choose_device(task.pretrain.device, quiet=True), task.probe.linear
    num_images = min(facts.num_train, max(PROBED, 2 * facts.num_classes))
    labels = torch.arange(num_images, device=device) % facts.num_classes
    split = probes.Split(torch.randn(num_images, dim, device=device), labels)
    once = linear.model_copy(update={"epochs": 1})
    how = {"num_classes": facts.num_classes, "holdout_frac": task.probe.holdout_frac, "seed": 0}

    def epoch(_: int) -> None:
        probes.linear_probe(split, split, once, **how)

    return 4 / 3 * seconds(epoch, 0, device) * linear.epochs * facts.num_train / num_images / dim
