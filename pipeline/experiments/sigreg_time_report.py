"""Report of paper/table6: milliseconds beside the published ones; growth with N, S and T."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median, stdev
from typing import Any

import torch

from pipeline.experiments.figures_experiments import GUIDE, Line, Panel, chart, look
from pipeline.experiments.sigreg_time import Published, Settings, Size, Times, along, published_slope, slope_of_times
from pipeline.experiments.synthetic_report import Report
from pipeline.reports.claims import Claim, markdown_table

LINEAR = 0.15  # a slope that is off 1 by less is linear
KINDS = {"step_ms": "forward + backward", "forward_ms": "forward"}
NAMES = {"num_samples": "samples N", "num_slices": "slices S", "num_knots": "knots T"}
COLUMNS = (
    *NAMES,
    *(f"published_{part}_ms" for part in ("mean", "std")),
    *(f"{kind}_{part}_ms" for kind in ("forward", "step") for part in ("median", "std")),
    "num_repetitions",
)


def claims(times: Sequence[Times], published: Sequence[Published]) -> list[Claim]:
    """Answer how time grows: linearly with N, at most linearly with S and T; one size is not enough."""
    found = []
    for axis, name in NAMES.items():
        said = "is linear in N" if axis == "num_samples" else f"is at most linear in {name[-1]}"
        theirs = published_slope(axis, published)
        for column, kind in KINDS.items():
            claim = f"time of SIGReg {said}: log-log slope, {kind}"
            if len(along([row.size for row in times], axis)) < 2:
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
    by_size = {row.size: row for row in times}
    pairs = [(row, by_size.get(row.size)) for row in published]
    head = ("N", "S", "T", "V100, published", "forward + backward", "forward", "N S T a second, forward + backward")
    text = (
        f"Milliseconds of SIGReg on this machine ({device.type}, {clock}, float32, K = {settings.proj_dim}): draw "
        "directions, project, statistic, and its gradient (forward + backward), or the value alone (forward). Median ± "
        f"standard deviation of {settings.num_repetitions} repetitions; the paper's are means on one V100. The paper "
        "states neither K nor whether the backward pass is in its times.\n\n"
        f"{markdown_table(head, [_line(*pair) for pair in pairs])}\n"
        "Milliseconds of different machines are not comparable, so the claims are about how time grows: the log-log "
        "slope along one axis, the other two at their smallest (1 is linear; std over single repetitions, whose number "
        "stands under seeds). The published slopes are computed from the published times. Linear: "
        f"within {LINEAR:g} of 1. A slope below 1 means that small sizes do not fill the machine: on the V100 they are "
        "dominated by what a call costs whatever its size, so its times say little about growth with S and T."
    )
    milliseconds = {
        f"{device.type}, {kind}": {row.size: median(getattr(row, column)) for row in times}
        for column, kind in KINDS.items()
    }
    charts = {"table6": _chart(milliseconds | {"V100, published": {row.size: row.mean_ms for row in published}})}
    title = "Table 6: time of SIGReg against samples, slices and knots"
    return Report(title, text, COLUMNS, [_row(*pair) for pair in pairs], charts, claims(times, published))


def _row(row: Published, ours: Times | None) -> dict[str, Any]:
    numbers = ["", "", "", "", 0]
    if ours is not None:
        measured = [number for values in (ours.forward_ms, ours.step_ms) for number in (median(values), stdev(values))]
        numbers = [*(f"{number:.4g}" for number in measured), len(ours.step_ms)]
    return dict(zip(COLUMNS, (*row.size, row.mean_ms, row.std_ms, *numbers), strict=True))


def _line(row: Published, ours: Times | None) -> tuple:
    theirs = f"{row.mean_ms:.3f} ± {row.std_ms:.3f}"
    if ours is None:
        return *row.size, theirs, "not run", "not run", ""
    measured = [f"{median(values):.4g} ± {stdev(values):.2g}" for values in (ours.step_ms, ours.forward_ms)]
    return *row.size, theirs, *measured, f"{1e3 * row.size.terms / median(ours.step_ms):.2g}"


def _chart(milliseconds: Mapping[str, Mapping[Size, float]]) -> str:
    """Draw milliseconds along every axis; a dashed guide continues the first line linearly."""
    looks = {name: look(index) for index, name in enumerate(milliseconds)}
    panels = []
    for axis, label in NAMES.items():
        lines = []
        for name, by_size in milliseconds.items():
            sizes = along(list(by_size), axis)
            lines.append(Line([getattr(size, axis) for size in sizes], [by_size[size] for size in sizes], looks[name]))
        first = lines[0]
        lines.append(Line(first.x, [first.y[0] * count / first.x[0] for count in first.x], GUIDE))
        ticks = max((line.x for line in lines), key=len)
        panels.append(Panel("", lines, label, ticks=ticks, log_y=True))
    title = "time of SIGReg against samples, slices and knots"
    return chart(title, panels, legend={**looks, "linear": GUIDE}, ylabel="milliseconds")
