"""Where a training step's time goes, operation group by operation group: python -m benchmarks.profile

A step is run phase by phase, each cut off from the next at its output, so that a backward pass belongs to its phase:
views, backbone forward, projector, objective, backbone backward, AdamW. torch.profiler measures the time of every
operation without those that it calls; the time counts for the operation's group: in the views the function of
pipeline.data.views that called it, in the backbone the kind of its outermost operation, elsewhere the phase.

Writes reports/benchmarks/profile.md. Profiling itself slows short operations; the step without it stands in the table.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from unittest.mock import patch

import torch
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, profile, record_function

from benchmarks.measure import in_turn, write_report
from benchmarks.step import BATCH, PROJ_DIM, VIEWS, made_images, make_learner, make_objective
from pipeline.core.seeds import generator
from pipeline.data.loader import batches
from pipeline.data.packed import ImageBatch
from pipeline.data.views import colour, multicrop
from pipeline.training.learner import Learner

MODELS = ("resnet18", "vit_tiny_patch16_224")
# In the views: label by function, as multicrop calls them.
VIEW_PARTS = {
    "crop and resize": [(multicrop, "crop_resize"), (multicrop, "random_boxes")],
    "colour": [(colour, name) for name in ("brightness_", "contrast_", "saturation_", "hue_", "solarize_")],
    "blur": [(colour, "gaussian_blur_some")],
    "normalise": [(colour, "normalise")],
}
# In the backbone: the group of an operation is the first that a part of its name stands for.
KINDS = {
    "convolution": ("conv",),
    "attention": ("attention", "softmax", "bmm", "baddbmm"),
    "matmul": ("linear", "addmm", "::mm", "matmul"),
    "normalisation": ("norm",),
    "activation": ("relu", "gelu", "silu", "threshold", "sigmoid", "tanh", "hardswish"),
    "pooling": ("pool",),
}
PHASES = ("views", "backbone forward", "projector", "objective", "backbone backward", "AdamW")


@contextmanager
def labelled_views() -> Iterator[None]:
    """Give the functions that make views a label in the profile."""

    def labelled(label: str, function: Callable) -> Callable:
        @wraps(function)
        def call(*args, **kwargs):
            with record_function(f"views: {label}"):
                return function(*args, **kwargs)

        return call

    with ExitStack() as stack:
        for label, functions in VIEW_PARTS.items():
            for module, name in functions:
                stack.enter_context(patch.object(module, name, labelled(label, getattr(module, name))))
        yield


def step(learner: Learner, batch: ImageBatch, objective: Callable, index: int) -> None:
    """Run one training step in phases; the same numbers as pipeline.training's."""
    with record_function("views"):
        draws = generator(0, "views", index, device=batch.pixels.device)
        groups = [group for group in VIEWS(batch.pixels, generator=draws) if group is not None]
    learner.optimizer.zero_grad()
    with record_function("backbone forward"):
        embeddings = torch.cat([learner.backbone(group.flatten(0, 1)) for group in groups])
    with record_function("projector"):
        inputs = embeddings.detach().requires_grad_()
        projections = learner.projector(inputs)
    with record_function("objective"):
        leaf = projections.detach().unflatten(0, (-1, len(batch.labels))).requires_grad_()
        objective(leaf, index)["loss"].backward()
    with record_function("projector"):
        projections.backward(leaf.grad.flatten(0, 1))
    with record_function("backbone backward"):
        embeddings.backward(inputs.grad)
    with record_function("AdamW"):
        learner.optimizer.step()


def group_of(event: FunctionEvent) -> str | None:
    """Return the row that an operation's own time belongs to; None outside of all phases."""
    kind = None
    while event is not None:
        if event.name in PHASES or event.name.startswith("views: "):
            if not event.name.startswith("backbone"):
                return "views: other" if event.name == "views" else event.name
            return f"{event.name}: {kind or 'other'}"
        found = (kind for kind, parts in KINDS.items() if any(part in event.name.lower() for part in parts))
        kind = next(found, kind)  # on the way up, so the outermost one stays
        event = event.cpu_parent
    return None


def shares(learner: Learner, batch: ImageBatch, steps: int) -> dict[str, float]:
    """Return each group's fraction of the time of all phases."""
    objective, on_cuda = make_objective(), batch.pixels.is_cuda
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * on_cuda
    with labelled_views():
        step(learner, batch, objective, 0)
        with profile(activities=activities) as recorded:
            for index in range(1, steps + 1):
                step(learner, batch, objective, index)
    spent: Counter[str] = Counter()
    for event in recorded.events():
        group = group_of(event)
        if group:
            spent[group] += event.self_device_time_total if on_cuda else event.self_cpu_time_total
    return {group: time / spent.total() for group, time in spent.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    (batch,) = batches(made_images(BATCH), torch.arange(BATCH), BATCH, device=device)
    found, milliseconds = {}, {}
    for name in MODELS:
        learner, objective = make_learner(name, device), make_objective()
        methods = {"step": lambda learner=learner, objective=objective: step(learner, batch, objective, 0)}
        milliseconds[name] = 1e3 * in_turn(methods, args.steps)["step"]
        found[name] = shares(learner, batch, args.steps)
    path = write(found, milliseconds, args)
    print(path.read_text(encoding="utf-8"))
    return 0


def write(found: dict[str, dict[str, float]], milliseconds: dict[str, float], args: argparse.Namespace):
    by_phase = {name: Counter() for name in found}
    for name, groups in found.items():
        for group, share in groups.items():
            by_phase[name][group.partition(":")[0]] += share
    groups = sorted({group for groups in found.values() for group in groups}, key=lambda g: (rank(g), g))
    notes = [
        f"{BATCH} colour images, {VIEWS.num_global} global and {VIEWS.num_local} local views of 32 px, float32, "
        f"projector 2048-2048-{PROJ_DIM}, 1024 slices, 17 knots; {args.steps} steps under torch.profiler.",
        "A step without the profiler: "
        + ", ".join(f"{name} {took:.0f} ms" for name, took in milliseconds.items())
        + ".",
        "Percent of a step. The objective, forward and backward, is SIGReg, its directions and the prediction loss.",
    ]
    tables = [
        (["phase", *found], [[phase, *(f"{by_phase[name][phase]:.1%}" for name in found)] for phase in PHASES]),
        (["group", *found], [[group, *(f"{found[name].get(group, 0):.1%}" for name in found)] for group in groups]),
    ]
    packages = ("torch", "torchvision", "timm")
    return write_report(
        "profile",
        "A training step, group by group",
        notes,
        tables,
        packages=packages,
        threads=args.threads,
        device=args.device,
    )


def rank(group: str) -> int:
    return PHASES.index(group.partition(":")[0])


if __name__ == "__main__":
    sys.exit(main())
