"""The runs of a grid, as their stages left them on disk."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.core.results import collapsed_at, read_history
from pipeline.runtime.errors import ResultError
from pipeline.runtime.files import is_number, read_json
from pipeline.schema.pretrain import Pretrain
from pipeline.selection.criteria import DIRECTIONS, Run
from pipeline.settings.cells import Cell
from pipeline.settings.grid import Listing

LOSSES = ("train_loss", "pred_loss", "sigreg_loss")  # of the parts those that an objective has
HOLDOUT = "linear_holdout_top1"
# Settings that change what the training loss measures, and not only how well it is minimised; the objective's do too.
MEASURES = {"batch_size", "views", "projector", "objective", "predictor", "swa"}


class Found(NamedTuple):
    """What was read: {cell: run}, the same cells as `figures_health.charts` takes them, and a line per problem."""

    runs: dict[Cell, Run]
    health: list[dict[str, Any]]
    problems: list[str]


def read_runs(listing: Listing, command: str) -> Found:
    """Read every trained cell that has been probed; frozen models are no runs to choose from.

    Args:
        listing: cells, who trained their weights, and `diagnose.score`, the accuracy that runs are judged by.
        command: what makes a missing file, for the messages.

    Returns:
        Runs, health, and one line per trained cell that collapsed or whose files are missing or broken. Without
        probe/health.json or pretrain/history.csv a cell still is a run, one that only the losses judge.
    """
    found = Found({}, [], [])
    collapsed: dict[Cell, int] = {}
    for cell in listing.cells:
        if cell.frozen:
            continue
        try:
            if epoch := collapsed_at(read_json(listing.owners[cell].folder / "pretrain/metrics.json")):
                collapsed[cell] = epoch
            found.runs[cell] = _run(listing, cell)
            health = read_json(cell.folder / "probe/health.json")
            history = read_history(listing.owners[cell].folder / "pretrain/history.csv")
            found.runs[cell] = _with_health(found.runs[cell], health.get("criteria"), cell.folder / "probe/health.json")
            named = {"cell": cell.key, "dataset": task(listing, cell), "backbone": cell.backbone, "lambda": cell.lamb}
            found.health.append({**named, "health": health, "history": history})
        except ResultError as error:
            found.problems.append(f"{cell.key}: {error}".replace("dvc repro", command))
    sound = {task(listing, cell) for cell in found.runs if cell not in collapsed}
    for cell, epoch in collapsed.items():
        # A task whose every run collapsed still has a pick, which the stages after this one need.
        left_out = task(listing, cell) in sound and found.runs.pop(cell, None)
        ending = "left out of correlations and picks" if left_out else "as did every run of its data set"
        found.problems.append(f"{cell.key}: collapsed at epoch {epoch}; {ending}")
    return found


def task(listing: Listing, cell: Cell) -> str:
    """Name what a cell is trained on and how it is probed; only runs of one task have comparable accuracies."""
    parts = [cell.dataset, f"on-{cell.target}"] if cell.target else [cell.dataset]
    for name, axis in listing.params.grid.axes.items():
        if axis.probes_alone:
            parts.append(f"{name}{cell.axes[name]}")
    return "--".join(parts)


def incomparable_settings(listing: Listing) -> list[str]:
    """Name the settings in which runs of one task differ and that change what the training loss measures.

    The loss need not order such runs. Settings of objectives are compared among the runs that minimise the same one.
    """
    tasks: dict[str, dict[str, Pretrain]] = {}
    for cell in listing.cells:
        if not cell.frozen:
            settings = listing.settings(cell)
            tasks.setdefault(task(listing, cell), {})[settings.key] = settings.pretrain
    found: set[str] = set()
    for runs in tasks.values():
        found |= _differing([pretrain.model_dump(include=MEASURES) for pretrain in runs.values()])
        by_objective: dict[str, list[dict[str, Any]]] = {}
        for pretrain in runs.values():
            name = pretrain.objective
            place = "sigreg" if name == "lejepa" else f"objectives.{name}"
            by_objective.setdefault(name, []).append({place: pretrain.objective_settings()})
        found = found.union(*map(_differing, by_objective.values()))
    return sorted(f"pretrain.{name}" for name in found)


def _differing(runs: Sequence[dict[str, Any]]) -> set[str]:
    """Return the dotted names of the settings that are not the same in all of these runs."""
    told = [dict(_leaves(run)) for run in runs]
    return {name for name in set().union(*told) if any(one.get(name) != told[0].get(name) for one in told)}


def _leaves(settings: dict[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in settings.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value


def _run(listing: Listing, cell: Cell) -> Run:
    trained, score = listing.owners[cell].folder / "pretrain", listing.params.diagnose.score
    summary = read_json(trained / "metrics.json")
    named = [name for name in LOSSES if name in summary or name == "train_loss"]
    losses = _numbers(summary, named, trained / "metrics.json")
    made, path = read_json(trained / "provenance.json"), cell.folder / "probe/metrics.json"
    probe = read_json(path)
    return Run(
        key=cell.key,
        dataset=task(listing, cell),
        backbone=cell.backbone,
        lamb=float(cell.lamb),
        accuracy=_numbers(probe, [score], path)[score],
        holdout=_numbers(probe, [HOLDOUT], path)[HOLDOUT] if HOLDOUT in probe else None,
        values=losses,
        trained_on=f"{made['hardware']['device']}, {made['hardware']['cpu']}, commit {made['commit']}",
    )


def _with_health(run: Run, criteria: Any, path: Path) -> Run:
    """Add the criteria of probe/health.json; one that is not finite (of a collapsed embedding) is left out."""
    if not isinstance(criteria, dict):
        raise ResultError(f"{path} has no criteria; remove it and run: dvc repro")
    if unknown := sorted(criteria.keys() - DIRECTIONS.keys()):
        raise ResultError(f"{path} has {', '.join(unknown)}, unknown to pipeline/selection/criteria.py")
    finite = {name: float(value) for name, value in criteria.items() if is_number(value)}
    return replace(run, values={**run.values, **finite})


def _numbers(found: Mapping[str, Any], names: Sequence[str], path: Path) -> dict[str, float]:
    wrong = [f"{name} {found.get(name, 'absent')!r}" for name in names if not is_number(found.get(name))]
    if wrong:
        raise ResultError(f"{path} must hold finite numbers, got {', '.join(wrong)}; remove it and run: dvc repro")
    return {name: float(found[name]) for name in names}
