"""Report of paper/table6: milliseconds beside the published ones; growth with N, S and T."""

from __future__ import annotations

import math
from typing import Any

import pandas
import torch

from pipeline.experiments.figures_experiments import GUIDE, Line, Panel, chart, look
from pipeline.experiments.sigreg_time import AXES, KINDS, Settings, along, published_slope, slope_of_times
from pipeline.experiments.synthetic_report import Report, prose
from pipeline.reports.claims import Claim, markdown_table

LINEAR = 0.15  # a slope that is off 1 by less is linear
KIND_NAMES = {"step_ms": "forward + backward", "forward_ms": "forward"}
NAMES = {"num_samples": "samples N", "num_slices": "slices S", "num_knots": "knots T"}
COLUMNS = (
    *NAMES,
    *(f"published_{part}_ms" for part in ("mean", "std")),
    *(f"{kind}_{part}_ms" for kind in ("forward", "step") for part in ("median", "std")),
    "num_repetitions",
)


def claims(times: pandas.DataFrame, published: pandas.DataFrame) -> list[Claim]:
    """Answer how time grows: linearly with N, at most linearly with S and T; one size is not enough."""
    found = []
    for axis, name in NAMES.items():
        said = "is linear in N" if axis == "num_samples" else f"is at most linear in {name[-1]}"
        theirs = f"{published_slope(axis, published):.2f}"
        for column, kind in KIND_NAMES.items():
            claim = f"time of SIGReg {said}: log-log slope, {kind}"
            if along(times, axis)[axis].nunique() < 2:
                found.append(Claim(claim, theirs, "", "", 0, "not run"))
                continue
            ours, std = slope_of_times(axis, times, column)
            holds = ours < 1 + LINEAR and (axis != "num_samples" or ours > 1 - LINEAR)
            verdict = "reproduced" if holds else "differs"
            found.append(Claim(claim, theirs, f"{ours:.2f}", f"{std:.2f}", times.repetition.nunique(), verdict))
    return found


def beside(times: pandas.DataFrame, published: pandas.DataFrame) -> pandas.DataFrame:
    """Return COLUMNS: every published size with our medians, deviations and repetitions, none where it was not run."""
    groups = times.groupby(AXES)
    ours = {
        f"{kind.removesuffix('_ms')}_{part}_ms": groups[kind].agg(part) for kind in KINDS for part in ("median", "std")
    }
    theirs = published.rename(columns={"mean_ms": "published_mean_ms", "std_ms": "published_std_ms"})
    found = theirs.merge(pandas.DataFrame({**ours, "num_repetitions": groups.size()}), how="left", on=AXES)
    return found.fillna({"num_repetitions": 0}).astype({"num_repetitions": int})


def report(times: pandas.DataFrame, published: pandas.DataFrame, settings: Settings, device: torch.device) -> Report:
    """Put rows, chart and claims together."""
    clock = "wall time" if device.type == "cuda" else "processor time of one thread"
    rows = beside(times, published).to_dict("records")
    head = ("N", "S", "T", "V100, published", "forward + backward", "forward", "N S T a second, forward + backward")
    table = markdown_table(head, map(_line, rows))
    text = prose("sigreg_time", settings=settings, device=device, clock=clock, linear=LINEAR, table=table)
    medians = times.groupby(AXES, as_index=False)[KINDS].median()
    lines = {f"{device.type}, {kind}": medians.rename(columns={column: "ms"}) for column, kind in KIND_NAMES.items()}
    charts = {"table6": _chart(lines | {"V100, published": published.rename(columns={"mean_ms": "ms"})})}
    title = "Table 6: time of SIGReg against samples, slices and knots"
    table = pandas.DataFrame(map(_row, rows), columns=COLUMNS)
    return Report(title, text, table, charts, claims(times, published), digits=12)


def _row(row: dict[str, Any]) -> dict[str, Any]:
    """Write our times with four digits, and nothing for a size that was not run."""
    ours = [name for name in COLUMNS if name.startswith(("forward", "step"))]
    return row | {name: f"{row[name]:.4g}" if row["num_repetitions"] else "" for name in ours}


def _line(row: dict[str, Any]) -> tuple:
    theirs = f"{row['published_mean_ms']:.3f} ± {row['published_std_ms']:.3f}"
    size = [row[axis] for axis in AXES]
    if not row["num_repetitions"]:
        return *size, theirs, "not run", "not run", ""
    ours = [f"{row[f'{kind}_median_ms']:.4g} ± {row[f'{kind}_std_ms']:.2g}" for kind in ("step", "forward")]
    return *size, theirs, *ours, f"{1e3 * math.prod(size) / row['step_median_ms']:.2g}"


def _chart(tables: dict[str, pandas.DataFrame]) -> str:
    """Draw milliseconds (column ms) along every axis; a dashed guide continues the first line linearly."""
    looks = {name: look(index) for index, name in enumerate(tables)}
    panels = []
    for axis, label in NAMES.items():
        chosen = {name: along(table, axis) for name, table in tables.items()}
        lines = [Line(table[axis].tolist(), table.ms.tolist(), looks[name]) for name, table in chosen.items()]
        first = lines[0]
        guide = Line(first.x, [first.y[0] * count / first.x[0] for count in first.x], GUIDE)
        ticks = max((line.x for line in lines), key=len)
        panels.append(Panel("", [*lines, guide], label, ticks=ticks, log_y=True))
    title = "time of SIGReg against samples, slices and knots"
    return chart(title, panels, legend={**looks, "linear": GUIDE}, ylabel="milliseconds")
