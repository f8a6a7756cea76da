"""Report of paper/table6: milliseconds beside the published ones; growth with N, S and T."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median, stdev
from typing import Any

import torch

from pipeline.experiments import plots_synthetic
from pipeline.experiments.sigreg_time import (
    AXES,
    Published,
    Settings,
    Times,
    along,
    published_slope,
    slope_of_times,
)
from pipeline.experiments.synthetic_report import Report
from pipeline.reports.claims import Claim, markdown_table

LINEAR = 0.15  # a slope that is off 1 by less is linear
KINDS = {"step_ms": "forward + backward", "forward_ms": "forward"}
NAMES = dict(zip(AXES, "NST", strict=True))
COLUMNS = (
    "num_samples",
    "num_slices",
    "num_knots",
    "published_mean_ms",
    "published_std_ms",
    "forward_median_ms",
    "forward_std_ms",
    "step_median_ms",
    "step_std_ms",
    "num_repetitions",
)


def claims(times: Sequence[Times], published: Sequence[Published]) -> list[Claim]:
    """Answer how time grows: linearly with N, at most linearly with S and T; one size is not enough."""
    found = []
    for axis in AXES:
        said = "is linear in N" if axis == "num_samples" else f"is at most linear in {NAMES[axis]}"
        theirs = published_slope(axis, published)
        for column, kind in KINDS.items():
            claim = f"time of SIGReg {said}: log-log slope, {kind}"
            chosen = along([row.size for row in times], axis)
            if len(chosen) < 2:
                found.append(Claim(claim, f"{theirs:.2f}", "", "", 0, "not run"))
                continue
            ours, std = slope_of_times(axis, times, column)
            holds = ours < 1 + LINEAR and (axis != "num_samples" or ours > 1 - LINEAR)
            verdict = "reproduced" if holds else "differs"
            found.append(Claim(claim, f"{theirs:.2f}", f"{ours:.2f}", f"{std:.2f}", len(times[0].step_ms), verdict))
    return found


def report(times: Sequence[Times], published: Sequence[Published], settings: Settings, device: torch.device) -> Report:
    """Put rows, chart and claims together."""
    clock = "wall time" if device.type == "cuda" else "processor time of one thread"
    text = (
        f"Milliseconds of SIGReg on this machine ({device.type}, {clock}, float32, K = {settings.proj_dim}): draw "
        "directions, project, statistic, and its gradient (forward + backward), or the value alone (forward). Median ± "
        f"standard deviation of {settings.num_repetitions} repetitions; the paper's are means on one V100. The paper "
        "states neither K nor whether the backward pass is in its times.\n\n"
        f"{_table(times, published)}\n"
        "Milliseconds of different machines are not comparable, so the claims are about how time grows: the log-log "
        "slope along one axis, the other two at their smallest (1 is linear; std over single repetitions, whose number "
        "stands under seeds). The published slopes are computed from the published times. Linear: "
        f"within {LINEAR:g} of 1. A slope below 1 means that small sizes do not fill the machine: on the V100 they are "
        "dominated by what a call costs whatever its size, so its times say little about growth with S and T."
    )
    charts = {"table6": plots_synthetic.sigreg_times(_lines(times, published, device.type))}
    title = "Table 6: time of SIGReg against samples, slices and knots"
    return Report(title, text, COLUMNS, _rows(times, published), charts, claims(times, published))


def _lines(times: Sequence[Times], published: Sequence[Published], device: str) -> dict[str, dict[str, tuple]]:
    """Return counts and milliseconds along every axis, ours and the paper's."""
    milliseconds = {
        **{
            f"{device}, {kind}": {row.size: median(getattr(row, column)) for row in times}
            for column, kind in KINDS.items()
        },
        "V100, published": {row.size: row.mean_ms for row in published},
    }
    found = {}
    for axis, label in zip(AXES, ("samples N", "slices S", "knots T"), strict=True):
        chosen = {name: along(list(by_size), axis) for name, by_size in milliseconds.items()}
        found[label] = {
            name: ([getattr(size, axis) for size in sizes], [milliseconds[name][size] for size in sizes])
            for name, sizes in chosen.items()
        }
    return found


def _rows(times: Sequence[Times], published: Sequence[Published]) -> list[dict[str, Any]]:
    by_size = {row.size: row for row in times}
    return [dict(zip(COLUMNS, _row(row, by_size.get(row.size)), strict=True)) for row in published]


def _row(row: Published, ours: Times | None) -> tuple:
    start = (*row.size, row.mean_ms, row.std_ms)
    if ours is None:
        return *start, "", "", "", "", 0
    measured = [number for values in (ours.forward_ms, ours.step_ms) for number in (median(values), stdev(values))]
    return *start, *(f"{number:.4g}" for number in measured), len(ours.step_ms)


def _table(times: Sequence[Times], published: Sequence[Published]) -> str:
    head = ("N", "S", "T", "V100, published", "forward + backward", "forward", "N S T a second, forward + backward")
    by_size = {row.size: row for row in times}
    return markdown_table(head, [_line(row, by_size.get(row.size)) for row in published])


def _line(row: Published, ours: Times | None) -> tuple:
    theirs = f"{row.mean_ms:.3f} ± {row.std_ms:.3f}"
    if ours is None:
        return *row.size, theirs, "not run", "not run", ""
    measured = [f"{median(values):.4g} ± {stdev(values):.2g}" for values in (ours.step_ms, ours.forward_ms)]
    return *row.size, theirs, *measured, f"{1e3 * row.size.terms / median(ours.step_ms):.2g}"
