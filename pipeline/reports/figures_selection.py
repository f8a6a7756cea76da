"""Figures of model selection without labels: the plane of the two losses, correlations by exponent and by criterion."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
from matplotlib.cm import ScalarMappable
from matplotlib.colors import BoundaryNorm, LinearSegmentedColormap
from matplotlib.ticker import MaxNLocator

from pipeline.reports import figures
from pipeline.reports.figures import COLOURS, DASHES, GREY, INK, MARKERS, legend_line
from pipeline.reports.selection_text import criterion_label, groups
from pipeline.selection.correlation import ALL, Entry, entry_of, hindsight, of_group
from pipeline.selection.criteria import RULE, Run
from pipeline.selection.picks import picked

# From viridis without its ends, which vanish on a dark or a white page.
SHADES = LinearSegmentedColormap.from_list("accuracy", ["#46509a", "#2a788e", "#2fa57c", "#8fc544", "#e8c52b"])
NUM_SHADES = 8
MOST_NAMED = 10  # backbones with a colour or marker of their own; a longer legend would be larger than the chart
NOTHING = "fewer than three runs,\nor all of them alike"


def charts(
    runs: Sequence[Run], entries: Sequence[Entry], *, exponent: float, label: str, paper: pd.DataFrame
) -> dict[str, str]:
    """Draw everything that the report shows.

    Args:
        runs: of `runs.read_runs`.
        entries: of `correlation.select`.
        exponent: a of the rule.
        label: of the accuracy, e.g. linear.
        paper: of `selection_report.read_paper`.

    Returns:
        SVG text under `plane-<task>`, `correlation` and `criteria`; no plane where a run's objective lacks a term.
    """
    picks = picked(entries, exponent)
    planes = {
        f"plane-{name}": plane(members, picks.get(name, ""), label)
        for name in groups(entries)
        if name != ALL and (members := _with_both_terms(runs, name))
    }
    return {**planes, "correlation": correlation(entries, exponent, paper), "criteria": criteria(entries, exponent)}


def _with_both_terms(runs: Sequence[Run], task: str) -> list[Run]:
    members = [run for run in runs if run.dataset == task]
    return members if all({"sigreg_loss", "pred_loss"} <= run.values.keys() for run in members) else []


def plane(runs: Sequence[Run], pick: str, label: str) -> str:
    """Draw SIGReg against prediction loss of one task's runs, coloured by accuracy.

    Args:
        runs: of one task.
        pick: key of the run that the rule picks; "" for none.
        label: of the accuracy.

    Returns:
        SVG text; a ring marks the pick, a square the best run by test labels, the marker tells the backbone.
    """
    places = {run.key: (run.values["sigreg_loss"], run.values["pred_loss"]) for run in runs}
    accuracies = [100 * run.accuracy for run in runs]
    steps = MaxNLocator(NUM_SHADES).tick_values(min(accuracies), max(accuracies))
    shade = ScalarMappable(BoundaryNorm(steps, SHADES.N), SHADES)
    backbones = list(dict.fromkeys(run.backbone for run in runs))
    markers = dict(zip(backbones, MARKERS, strict=False)) if len(backbones) <= MOST_NAMED else {}
    best = max(runs, key=lambda run: run.accuracy)
    with figures.drawing():
        figure, (axes,) = figures.make_panels(1, height=3.7)
        for run, accuracy in zip(runs, accuracies, strict=True):
            look = {"color": shade.to_rgba(accuracy), "markeredgecolor": GREY, "markeredgewidth": 0.5, "markersize": 7}
            axes.plot(*places[run.key], marker=markers.get(run.backbone, "o"), **look)
        ring = {"markerfacecolor": "none", "markeredgecolor": INK, "linestyle": "none"}
        axes.plot(*places[best.key], marker="s", markersize=12, markeredgewidth=1.0, **ring)
        if pick:
            axes.plot(*places[pick], marker="o", markersize=15, markeredgewidth=1.6, **ring)
        _log_where_wide(axes, list(places.values()))
        axes.set(xlabel="SIGReg loss, last epoch", ylabel="prediction loss, last epoch", title=runs[0].dataset)
        figure.colorbar(shade, ax=axes, label=f"{label} top-1, %", spacing="proportional").outline.set_visible(False)
        handles = [legend_line(name, GREY, "none", marker) for name, marker in markers.items()]
        handles += [_ring("selected without labels", "o", 9)] * bool(pick) + [_ring("best by test labels", "s", 8)]
        figures.add_legend(figure, handles)
        return figures.to_svg(figure, f"SIGReg and prediction loss {runs[0].dataset}")


def _ring(label: str, marker: str, size: float) -> Any:
    line = legend_line(label, INK, "none", marker)
    line.set(markerfacecolor="none", markersize=size)
    return line


def _log_where_wide(axes: Any, places: Sequence[tuple[float, float]]) -> None:
    for which, values in zip("xy", zip(*places, strict=True), strict=True):
        if figures.spans_decades(values):
            figures.log_axis(axes, which)
    axes.margins(0.12)


def correlation(entries: Sequence[Entry], exponent: float, paper: pd.DataFrame) -> str:
    """Draw the agreement of train_loss / lambda^a and accuracy against a: a panel per task, and one for their mean.

    Args:
        entries: of `correlation.select`.
        exponent: a of the rule, a dotted line.
        paper: of `selection_report.read_paper`, crosses.

    Returns:
        SVG text. Thick: all runs of the task, with the bootstrap interval as a band; thin: one backbone's runs.
    """
    names = groups(entries)
    backbones = sorted({e.backbone for e in entries if e.backbone != ALL and e.rho is not None and e.criterion == RULE})
    named = len(backbones) <= MOST_NAMED
    colours = {name: COLOURS[i % len(COLOURS)] if named else GREY for i, name in enumerate(backbones)}
    with figures.drawing():
        figure, panels = figures.make_panels(len(names), height=3.1)
        for axes, name in zip(panels, names, strict=True):
            for backbone, colour in colours.items():
                _exponent_line(axes, of_group(entries, name, backbone), color=colour, linewidth=0.9)
            drawn = _exponent_line(axes, of_group(entries, name), color=INK, linewidth=2, band=True)
            if not drawn:
                axes.text(0.5, 0.6, NOTHING, transform=axes.transAxes, ha="center", va="center")
            axes.plot(paper["a"], paper["spearman"], "x", color=GREY)
            axes.axvline(exponent, color=GREY, linestyle=DASHES[2], linewidth=1.2)
            axes.axhline(0, color=GREY, linewidth=0.8)
            axes.set(title=_title(name), xlabel="a in loss / λ^a", xlim=(-0.03, 1.03), ylim=(-1.05, 1.05))
        panels[0].set_ylabel("Spearman agreement with accuracy")
        handles = [legend_line("all runs", INK, "-"), legend_line("the paper", GREY, "none", "x")]
        handles += [legend_line(f"the rule, a = {exponent:g}", GREY, DASHES[2])]
        handles += [legend_line(name, colour, "-") for name, colour in colours.items()] if named else []
        figures.add_legend(figure, handles)
        return figures.to_svg(figure, "Spearman correlation against the exponent of lambda")


def _exponent_line(axes: Any, entries: Sequence[Entry], *, band: bool = False, **look: Any) -> bool:
    """Draw one group's agreement by a; return whether there is any."""
    known = [entry for entry in entries if entry.criterion == RULE and entry.rho is not None]
    axes.plot([entry.a for entry in known], [entry.rho for entry in known], **look)
    if band:
        sure = [entry for entry in known if entry.low is not None]
        ends = [entry.low for entry in sure], [entry.high for entry in sure]
        axes.fill_between([entry.a for entry in sure], *ends, color=GREY, alpha=0.25, linewidth=0)
    return bool(known)


def criteria(entries: Sequence[Entry], exponent: float) -> str:
    """Draw the agreement of every criterion with accuracy, with its interval: a panel per task, one for their mean.

    Args:
        entries: of `correlation.select`.
        exponent: a of the rule.

    Returns:
        SVG text; hollow: the best a in hindsight, which no one knows without labels.
    """
    names = groups(entries)
    found = {name: _shown(of_group(entries, name), exponent) for name in names}
    labels = list(dict.fromkeys(label for shown in found.values() for label in shown))
    with figures.drawing():
        figure, panels = figures.make_panels(len(names), height=0.9 + 0.21 * len(labels))
        for index, (axes, name) in enumerate(zip(panels, names, strict=True)):
            for label, entry in found[name].items():
                if entry.rho is not None:
                    _interval(axes, labels.index(label), entry, hollow="hindsight" in label, rule=label == labels[0])
            axes.axvline(0, color=GREY, linewidth=0.8)
            axes.set_yticks(range(len(labels)), labels if index % 4 == 0 else [""] * len(labels), fontsize=8.5)
            axes.set(
                title=_title(name), xlabel="Spearman agreement", xlim=(-1.05, 1.05), ylim=(len(labels) - 0.5, -0.5)
            )
        return figures.to_svg(figure, "Spearman correlation of label-free criteria with accuracy")


def _shown(entries: Sequence[Entry], exponent: float) -> dict[str, Entry]:
    rule, best = entry_of(entries, RULE, exponent), hindsight(entries, RULE)
    found = {f"{criterion_label(rule)}, the rule": rule} if rule else {}
    found |= {criterion_label(entry): entry for entry in entries if entry.criterion == RULE and entry.a in (0, 1)}
    found |= {"train loss / λ^a, hindsight": best} if best else {}
    return found | {criterion_label(entry): entry for entry in entries if entry.criterion != RULE}


def _interval(axes: Any, place: int, entry: Entry, *, hollow: bool, rule: bool) -> None:
    colour = COLOURS[1] if rule else COLOURS[0]
    if entry.low is not None:
        axes.plot([entry.low, entry.high], [place, place], color=colour, linewidth=1.4)
    axes.plot([entry.rho], [place], "o", color=colour, markerfacecolor="none" if hollow else colour)


def _title(name: str) -> str:
    return "mean over data sets" if name == ALL else name
