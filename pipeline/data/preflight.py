"""Checks before the first step: settings against the packed images.

Only the resolved settings and the meta.json of packed data sets are read, so this takes no time.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

from pipeline.core.distributed.collectives import rank
from pipeline.data.packed import common_size
from pipeline.runtime.errors import UserError
from pipeline.runtime.rooms import own_objective
from pipeline.schema.pretrain import Pretrain
from pipeline.schema.probe import Probe
from pipeline.schema.resolved import PretrainRun, ProbeRun

Meta = dict[str, Any]


class PreflightError(UserError):
    """Settings ask for more than a data set has; the message lists every one with path, rule, value and remedy."""


def check(run: PretrainRun, meta: Meta) -> None:
    """Stop a cell whose training or probe cannot succeed, before it is trained; warn of what is likely not meant.

    Args:
        run: settings of the cell; a probe on another data set looks at that one itself.
        meta: meta.json of the data set that is trained on.

    Raises:
        PreflightError: listing every problem at once.
    """
    problems = [*training_problems(run.pretrain, meta)]
    problems += objective_problems(run.pretrain.objective, run.objective_files)
    notes = [reading_note(run.pretrain, meta), *crop_notes(run.pretrain, meta)]
    if run.target == run.dataset:
        problems += probe_problems(run.probe, meta)
        notes += shot_warnings(run.probe, meta)
    _tell(run.cell, problems)
    if not rank():
        print("".join(f"{line}\n" for line in notes), end="", file=sys.stderr)


def check_probe(run: ProbeRun, target: Meta) -> None:
    """Stop a probe that cannot succeed before features are extracted: `check` for a cell that is not trained here.

    Raises:
        PreflightError: listing every problem at once.
    """
    problems = list(probe_problems(run.probe, target))
    if not run.model:
        problems += objective_problems(run.trained.objective, run.trained.objective_files)
    _tell(run.cell, problems)


def objective_problems(name: str, files: dict[str, str]) -> Iterator[str]:
    """Yield what is wrong with a user's own objective, whose files had these digests when settings were resolved."""
    if own_objective(name) != files:
        yield f"the file of pretrain.objective {name} has changed since; run: dvc repro"


def _tell(cell: str, problems: list[str]) -> None:
    if problems:
        lines = "\n".join(f"  - {problem}" for problem in problems)
        raise PreflightError(f"cell {cell} cannot be run, {len(problems)} problem{'s' * (len(problems) > 1)}:\n{lines}")


def training_problems(settings: Pretrain, meta: Meta) -> Iterator[str]:
    """Yield what pretraining would refuse."""
    num_images, batch_size = _num_train(meta), settings.batch_size
    if batch_size > num_images:
        yield (
            f"pretrain.batch_size must be <= the {num_images} training images of {meta['name']!r}, got {batch_size}; "
            "lower it"
        )


def probe_problems(settings: Probe, meta: Meta) -> Iterator[str]:
    """Yield what the probes would refuse."""
    per_class, name = _per_class(meta), meta["name"]
    if (k := settings.knn.k) > _num_train(meta):
        yield f"probe.knn.k must be <= the {_num_train(meta)} training images of {name!r}, got {k}; lower it"
    largest = max(per_class.values())
    for shots in settings.few_shot.shots:
        if shots > largest:
            yield (
                f"probe.few_shot.shots must be <= the {largest} training images of the largest class of {name!r}, got "
                f"{shots}; lower it or leave it out"
            )
    lonely = [label for label, count in per_class.items() if count < 2]
    if lonely and _holds_out(settings):
        yield (
            f"probe.holdout_frac tunes the probe on held-out training images, but {_listed(lonely)} of {name!r} "
            f"{_verb(lonely)} one training image only; add images or remove the class"
        )


def shot_warnings(settings: Probe, meta: Meta) -> Iterator[str]:
    """Yield where classes have fewer images than shots: they give all that they have, which is fair but uneven."""
    per_class = _per_class(meta)
    for shots in settings.few_shot.shots:
        small = [label for label, count in per_class.items() if count < shots]
        if small and len(small) < len(per_class):
            yield (
                f"warning: probe.few_shot.shots {shots}: {_listed(small)} of {meta['name']!r} {_verb(small)} fewer "
                f"training images (at least {min(per_class.values())}); all of them are taken"
            )


def reading_note(settings: Pretrain, meta: Meta) -> str:
    """Return which way the images take to their views; the set decides."""
    if common_size(meta, settings.load_px):
        return f"note: the images of {meta['name']!r} have one size: they are read whole, views are cut on the device"
    return f"note: views are cut from the photographs of {meta['name']!r} at their own resolution, while they are read"


def crop_notes(settings: Pretrain, meta: Meta) -> Iterator[str]:
    """Yield where every image is smaller than the crops that are made of it: crops then hold no more than it does."""
    views = settings.views
    side = max(meta["width_px"][1], meta["height_px"][1])
    if side < views.global_px:
        yield (
            f"note: pretrain.views.global_px {views.global_px}: the images of {meta['name']!r} have at most {side} "
            "px and are enlarged to it; a smaller value is faster"
        )


def _num_train(meta: Meta) -> int:
    return meta["splits"]["train"]["num_images"]


def _per_class(meta: Meta) -> dict[str, int]:
    return dict(zip(meta["classes"], meta["splits"]["train"]["per_class"], strict=True))


def _holds_out(settings: Probe) -> bool:
    """Whether labels are held out: the linear probe always does, fine-tuning only to choose a learning rate."""
    frozen = settings.mode == "frozen" or "raw_pixels" in settings.baselines
    return frozen or len(settings.finetune.learning_rates) > 1


def _listed(labels: list[str]) -> str:
    shown = ", ".join(repr(label) for label in labels[:5]) + (", ..." if len(labels) > 5 else "")
    return f"class {shown}" if len(labels) == 1 else f"{len(labels)} classes ({shown})"


def _verb(labels: list[str]) -> str:
    return "has" if len(labels) == 1 else "have"
