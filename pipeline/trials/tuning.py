"""The comparison of objectives: a grid of learning rate and weight on held-out images, then several seeds of the pick.

Two budgets: `images`, equally many images seen by all, and `time`, as long as the reference objective takes. A result
that was found before the program ended is not computed again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Any

from pipeline.core.checkpoints import Checkpoints
from pipeline.models import backbones, features
from pipeline.probing import probes
from pipeline.runtime.errors import NonFiniteLossError
from pipeline.schema.trials import LAMBDA
from pipeline.trials.bench import Bench, Trial, embedded, part, relative_time, trained

BASELINES = "baselines"
"""In place of an objective: the untrained backbone, for every seed, and raw pixels."""
BUDGETS = ("images", "time")


class Memo:
    """Results on disk, each in a folder that is named by what determines it."""

    def __init__(self, root: Path, sources: Iterable[Path]) -> None:
        """Take the folder and the files of code that determine results as well."""
        self._root, self._sources = root, list(sources)

    def __call__(self, identity: Any, compute: Callable[[Checkpoints], dict[str, Any]]) -> dict[str, Any]:
        """Return compute(where its states go), or what it returned before: plain values by name."""
        done = Checkpoints(self._root / "done", identity, self._sources)
        if (found := done.load()) is not None:
            return found
        progress = Checkpoints(self._root / "progress", identity, self._sources)
        result = compute(progress)
        done.save(result, step=0)
        progress.remove()
        return result


def tune(bench: Bench, objective: str, memo: Memo) -> Iterator[dict[str, Any]]:
    """Train at every learning rate and weight without the held-out images; yield the linear probe's accuracy on these.

    `holdout_top1` is None where the training diverged.
    """
    section = bench.section
    for lr, weight in product(section.learning_rates, section.tuned(objective)[1]):
        trial = Trial(objective, lr, weight, section.tuning_epochs, section.tuning_seed)
        identity = ["tune", section.holdout_frac, bench.identity(trial)]
        found = memo(identity, lambda checkpoints, trial=trial: _held_out(bench, trial, checkpoints))
        yield asdict(trial) | found


def _held_out(bench: Bench, trial: Trial, checkpoints: Checkpoints) -> dict[str, Any]:
    probe, split = bench.section.probe, bench.section.holdout_frac
    members = probes.stratified_holdout(bench.train.labels, split, seed=trial.seed)
    fit, held = (part(bench.train, one) for one in members)
    try:
        backbone, facts = trained(bench, trial, fit, checkpoints)
    except NonFiniteLossError as error:
        print(f"{trial} diverged: {error}", flush=True)
        return {"holdout_top1": None, "train_s": None}
    how = {"num_classes": bench.num_classes, "holdout_frac": probe.holdout_frac, "seed": trial.seed}
    found = probes.linear_probe(*embedded(bench, backbone, fit, held), probe.linear, **how)
    return {"holdout_top1": found.top1, "train_s": facts["train_s"]}


def pick(tried: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the row of the highest accuracy on held-out images; of equal ones the first.

    Raises:
        NonFiniteLossError: every training diverged.
    """
    sound = [row for row in tried if row["holdout_top1"] is not None]
    if not sound:
        raise NonFiniteLossError(
            f"every training of {tried[0]['objective']} in the tuning diverged; lower trials.learning_rates"
        )
    return max(sound, key=lambda row: row["holdout_top1"])


def compare(bench: Bench, objective: str, memo: Memo) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Tune an objective and train the pick with every seed under both budgets.

    Returns:
        The rows of the tuning and those of the comparison.
    """
    section, tried = bench.section, []
    for row in tune(bench, objective, memo):
        tried.append(row)
        print(f"{bench.dataset}: {row}", flush=True)
    best = pick(tried)
    chosen = {"lr": best["lr"], "weight": best["weight"], "holdout_top1": best["holdout_top1"]}
    weights = section.tuned(objective)[1]
    chosen |= {"lr_at_edge": at_edge(best["lr"], section.learning_rates)}
    chosen |= {"weight_at_edge": at_edge(best["weight"], weights)}
    rows = []
    for budget, (epochs, relative) in _epochs(bench, objective, best, memo).items():
        for seed in section.seeds:
            trial = Trial(objective, best["lr"], best["weight"], epochs, seed)
            found = memo(["final", bench.identity(trial)], lambda states, trial=trial: _final(bench, trial, states))
            rows.append({"budget": budget, **asdict(trial), "relative_step_time": relative, **chosen, **found})
            print(f"{bench.dataset}: {rows[-1]}", flush=True)
    return tried, [_described(bench, row) for row in rows]


def at_edge(value: float, values: list[float]) -> bool:
    """Whether a pick is the lowest or the highest of the values tried: a better one may lie beyond."""
    return value in (min(values), max(values))


def _epochs(bench: Bench, objective: str, best: dict[str, Any], memo: Memo) -> dict[str, tuple[int, float]]:
    """Return the epochs of each budget, and the time of a step over that of the reference's."""
    section = bench.section
    full, seed = section.pretrain.epochs, section.tuning_seed
    reference = Trial(section.reference, best["lr"], section.tuned(section.reference)[1][0], full, seed)
    mine = Trial(objective, best["lr"], best["weight"], full, seed)
    identity = ["time", bench.identity(mine), bench.identity(reference)]
    relative = 1.0
    if objective != section.reference:
        relative = memo(identity, lambda _: {"ratio": relative_time(bench, mine, reference)})["ratio"]
    least = int(section.pretrain.schedule.warmup_epochs) + 1
    return {"images": (full, relative), "time": (max(least, round(full / relative)), relative)}


def _final(bench: Bench, trial: Trial, checkpoints: Checkpoints) -> dict[str, Any]:
    backbone, facts = trained(bench, trial, bench.train, checkpoints)
    splits = embedded(bench, backbone, bench.train, bench.test)
    return facts | probes.evaluate(*splits, probes.Task(bench.num_classes, bench.section.probe, trial.seed))


def measure_baselines(bench: Bench, memo: Memo) -> list[dict[str, Any]]:
    """Probe the untrained backbone of every seed, and raw pixels."""
    section, rows = bench.section, []
    trial = Trial(section.reference, 1.0, section.tuned(section.reference)[1][0], section.pretrain.epochs, 0)
    for name, seed in [*product(["random_init"], section.seeds), ("raw_pixels", section.seeds[0])]:
        identity = [name, seed, bench.identity(trial)]
        found = memo(identity, lambda _, name=name, seed=seed: _baseline(bench, name, seed))
        rows.append(_described(bench, {"budget": "none", "objective": name, "seed": seed, **found}))
    return rows


def _baseline(bench: Bench, name: str, seed: int) -> dict[str, Any]:
    splits = bench.train, bench.test
    if name == "raw_pixels":
        pixels = (features.raw_pixels(images, bench.reader()).to(bench.device) for images in splits)
        shown = [probes.Split(x, images.labels.to(bench.device)) for x, images in zip(pixels, splits, strict=True)]
    else:
        network = backbones.initial_backbone(bench.section.backbone, bench.arguments, seed=seed)
        shown = embedded(bench, network, *splits)
    found = probes.evaluate(*shown, probes.Task(bench.num_classes, bench.section.probe, seed))
    return {"num_images": len(bench.train.labels), **found}


def _described(bench: Bench, row: dict[str, Any]) -> dict[str, Any]:
    """Put what a reader needs to place a row before its numbers."""
    section, objective = bench.section, row["objective"]
    what = {"dataset": bench.dataset, "backbone": section.backbone, "probe_site": section.probe.site}
    what |= {"num_test": len(bench.test.labels)}
    if objective not in section.objectives or row["budget"] == "none":
        return what | row
    name = section.tuned(objective)[0]
    return what | {"tuned": name, "lambda": row["weight"] if name == LAMBDA else None} | row
