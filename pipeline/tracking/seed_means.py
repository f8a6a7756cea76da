"""One run for the seeds of a cell: means and standard deviations, by which MLflow can sort and compare."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace
from statistics import fmean, stdev

from pipeline.tracking.record import Record

STD = "_seed_std"
"""Ends the name of the standard deviation (of a sample) over seeds; the mean has the metric's own name."""


def seed_means(records: Iterable[Record]) -> list[Record]:
    """Return the run of every group of cells that differ in their seed alone; of a single seed there is none.

    It has the params that all have, `seed` naming theirs, and every point that all have; it stands beside the cells,
    which stay flat, and has no artifacts: those are the cells'.
    """
    groups = defaultdict[str, list[Record]](list)
    for record in records:
        groups[re.sub(r"--seed\d+", "", record.cell)].append(record)
    return [_mean(name, group) for name, group in groups.items() if len(group) > 1]


def _mean(name: str, group: list[Record]) -> Record:
    first, *others = group
    params = dict(set(first.params.items()).intersection(*(record.params.items() for record in others)))
    points = [point for point in first.metrics if all(point in record.metrics for record in others)]
    values = {point: [record.metrics[point] for record in group] for point in points}
    final = {(f"{metric}{STD}", step): stdev(found) for (metric, step), found in values.items() if step == 0}
    return replace(
        first,
        cell=name,
        params=params | {"seed": f"mean of {', '.join(record.params['seed'] for record in group)}"},
        metrics={point: fmean(found) for point, found in values.items()} | final,
        artifacts={},
        alarms={},
        shown_alarms={},
        picked_by="",
        work_s=sum(record.work_s for record in group),
        ends_s={},
    )
