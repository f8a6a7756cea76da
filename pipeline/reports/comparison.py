"""Sentences of the comparison, and comparison.md. Plain rows in, strings out; comparison_html.py is the HTML.

Every learned score stands in percent with, under it, the same probe on the same backbone at random initialisation and
on raw pixels, and the difference in points.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Row = Mapping[str, Any]
BASELINES = {"random_init_": "random", "raw_pixels_": "pixels"}
LEADERS = {"random_init_": "the best random initialisation", "raw_pixels_": "the probe on raw pixels"}
ABSENT = "–"
ALARM = "†"  # beside the name of a row of which some run has an alarm


@dataclass(frozen=True)
class Style:
    """How numbers and links are written.

    Args:
        decimals: of a percentage.
        run_url: address of an MLflow run with `{run_id}` in it; empty for plain ids.
    """

    decimals: int = 1
    run_url: str = ""

    def percent(self, fraction: float | None) -> str:
        """Write a fraction as a percentage without its sign."""
        return ABSENT if fraction is None else f"{100 * fraction:.{self.decimals}f}"

    @classmethod
    def linked(cls, decimals: int, ui: str, experiment: str) -> Style:
        """Link runs to the MLflow at the address `ui`; without an experiment's id there are no links."""
        return cls(decimals, f"{ui.rstrip('/')}/#/experiments/{experiment}/runs/{{run_id}}" if experiment else "")

    def link(self, run_id: str) -> str:
        """Address of a run in the MLflow UI; empty where it is not known."""
        return self.run_url.format(run_id=run_id)

    def points(self, fraction: float) -> str:
        """Write a difference of fractions in points, always signed; what rounds to zero is ±0."""
        text = f"{100 * fraction:+.{self.decimals}f}"
        return text.replace("-", "−") if float(text) else f"±{abs(float(text)):.{self.decimals}f}"


@dataclass(frozen=True)
class Score:
    """One entry of a table: a learned score, its spread, and baselines as (label, score or None, is best).

    `collapsed` says how many runs did and stands under the score, or in its place where there is none.
    """

    learned: float | None
    std: float | None
    best: bool
    baselines: tuple[tuple[str, float | None, bool], ...]
    collapsed: str = ""


def score_label(name: str) -> str:
    """Short heading of a score: linear, k-NN, 1-shot."""
    shots = re.fullmatch(r"linear_top1_(\d+)shot", name)
    return f"{shots[1]}-shot" if shots else {"linear_top1": "linear", "knn_top1": "k-NN"}[name]


def _best(rows: Sequence[Row], score: str, style: Style) -> str:
    """Best number of a column as it is shown: what looks equal is equally best."""
    values = [row.get(prefix + score) for row in rows for prefix in ("", *BASELINES)]
    return style.percent(max((value for value in values if value is not None), default=None))


def entry(rows: Sequence[Row], row: Row, score: str, style: Style) -> Score:
    """Look up a row's score with its baselines, and mark the best of the column, baselines included."""
    best = _best(rows, score, style)

    def is_best(value: float | None) -> bool:
        return value is not None and style.percent(value) == best

    learned = row.get(score)
    measured = measured_baselines(rows)
    values = [(label, row.get(prefix + score)) for prefix, label in BASELINES.items() if prefix in measured]
    baselines = tuple((label, value, is_best(value)) for label, value in values)
    return Score(learned, row.get(f"{score}_std"), is_best(learned), baselines, _collapse(row))


def measured_baselines(rows: Sequence[Row]) -> list[str]:
    """Name the baselines, by their prefix, of which any row has a number: `probe.baselines` chooses them."""
    return [prefix for prefix in BASELINES if any(name.startswith(prefix) for row in rows for name in row)]


def _collapse(row: Row) -> str:
    """Say that every run of a row collapsed, and when, or how many did: `1 of 3 collapsed`; empty if none did."""
    epochs = [str(alarms["collapse"]) for alarms in row["alarms"].values() if "collapse" in alarms]
    if not epochs:
        return ""
    if row["num_seeds"]:
        return f"{len(epochs)} of {num_trained(row)} collapsed"
    return f"collapsed (epoch{'s' * (len(epochs) > 1)} {', '.join(epochs)})"


def num_trained(row: Row) -> int:
    """Count the training seeds of a row, those that collapsed among them."""
    return row["num_seeds"] + row["num_collapsed"]


def alarm_lines(rows: Iterable[Row]) -> list[str]:
    """Name every run with alarms: `† test_vit, λ 0.05, seed 0: explosion at epoch 5`."""
    return [
        f"{ALARM} {row['backbone']}, λ {row['lambda']:g}, seed {seed}: "
        + ", ".join(f"{name} at epoch {epoch}" for name, epoch in alarms.items())
        for row in rows
        for seed, alarms in row["alarms"].items()
    ]


def backbone_label(row: Row) -> str:
    """Name of a row's backbone, with a mark if a run of it has an alarm."""
    return f"{row['backbone']} {ALARM}" if row["alarms"] else row["backbone"]


def verdict(rows: Sequence[Row], scores: Iterable[str], style: Style) -> str:
    """Say in a sentence or two where a baseline is at least as good as every learned backbone of a data set."""
    if all(row.get(score) is None for row in rows for score in scores):
        return "There is no learned number to compare."
    lost = []
    for score in scores:
        learned = [row[score] for row in rows if row.get(score) is not None]
        for prefix, leader in LEADERS.items():
            others = [row[prefix + score] for row in rows if row.get(prefix + score) is not None]
            if learned and others and max(others) >= max(learned):
                verb = "beats" if max(others) > max(learned) else "equals"
                numbers = f"{style.percent(max(others))} against {style.percent(max(learned))}"
                lost.append(f"{score_label(score)}: {leader} {verb} the best learned backbone, {numbers}")
    if lost:
        return f"A baseline is not beaten here. {'; '.join(lost)}."
    return "In every column the best number is a learned one."


def reading(rows: Sequence[Row]) -> str:
    """Explain the table: what stands under a number, what bold and ± mean, how many seeds there are."""
    if all(num_trained(row) == 1 for row in rows):
        spread = "One training seed each (n = 1); ± is the standard deviation over the few-shot draws."
    else:
        spread = (
            "Means over n training seeds; ± is their standard deviation, or where n = 1 that of the few-shot draws."
        )
    alarms = ""
    if any(row["alarms"] for row in rows):
        alarms = (
            f" {ALARM}: an alarm rang in training, named under the table. A run that collapsed has no learned number "
            "and is left out of means, gains and charts."
        )
    told = {"random_init_": "the same backbone at random initialisation (random)", "raw_pixels_": "raw pixels (pixels)"}
    others = " and on ".join(told[prefix] for prefix in measured_baselines(rows))
    baselines = (
        f"Under each number: the same probe on {others}, and how many points the learned features are above it "
        "(differences are taken before rounding)."
        if others
        else "No baseline was measured (probe.baselines)."
    )
    return (
        f"Top-1 accuracy on the test split in percent, frozen backbone. {baselines} {spread} "
        f"Bold: best of its column, baselines included.{alarms}"
    )


def summary_line(gain: Row, style: Style) -> str:
    """One line on a data set: learned minus random init, mean over its cells (`gain` of `tables.improvements`)."""
    if not gain["num_cells"]:
        return f"{gain['dataset']}: {left_out(gain)}"
    parts = [
        f"{score_label(score)} {style.points(found['mean'])} points ({found['num_better']} of {found['n']} cells gain)"
        for score, found in gain["gains"].items()
    ]
    cells = f"{gain['num_cells']} cell{'s' * (gain['num_cells'] != 1)}"
    cells += f" ({left_out(gain)})" if gain["num_collapsed"] else ""
    if not parts:
        return f"{gain['dataset']}: {cells}; random initialisation was not measured (probe.baselines)"
    return f"{gain['dataset']}: learned minus random init, mean over {cells}: {', '.join(parts)}"


def left_out(gain: Row) -> str:
    """Say how many cells of a data set collapsed and count in no mean."""
    return f"{gain['num_collapsed']} collapsed cell{'s' * (gain['num_collapsed'] != 1)} left out"


def counted(gains: Sequence[Row], num_cells: int) -> str:
    """Say how many of a grid's cells have results, and how many of these collapsed."""
    sound, collapsed = (sum(gain[name] for gain in gains) for name in ("num_cells", "num_collapsed"))
    ending = f", {collapsed} of them collapsed" if collapsed else ""
    return f"{sound + collapsed} of {num_cells} cells have results{ending}"


def by_dataset(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """Group rows by data set, keeping both orders."""
    grouped: dict[str, list[Row]] = {}
    for row in rows:
        grouped.setdefault(row["dataset"], []).append(row)
    return grouped


def markdown(
    title: str, rows: Sequence[Row], gains: Sequence[Row], scores: Sequence[str], missing: Sequence[str], style: Style
) -> str:
    """Write comparison.md.

    Args:
        title: heading of the page.
        rows: rows of `tables.summarise`.
        gains: rows of `tables.improvements`.
        scores: columns to show, of `tables.score_columns`.
        missing: one line per cell without results.
        style: how numbers and links are written.
    """
    lines = [f"# {title}", "", *(f"- {_md(summary_line(gain, style))}" for gain in gains), "", reading(rows), ""]
    for dataset, group in by_dataset(rows).items():
        lines += [
            f"## {_md(dataset)}",
            "",
            *_md_table(group, scores, style),
            "",
            *(f"{_md(line)}\n" for line in alarm_lines(group)),
            _md(verdict(group, scores, style)),
            "",
        ]
    if missing:
        lines += ["## Missing cells", "", *(f"- {_md(line)}" for line in missing), ""]
    return "\n".join(lines)


def _md(text: str) -> str:
    """Escape what Markdown would read as markup; an underscore inside a word is none."""
    return re.sub(r"[\\`*|<>\[\]]|(?<!\w)_|_(?!\w)", r"\\\g<0>", text)


def columns(rows: Sequence[Row], scores: Sequence[str]) -> list[str]:
    """Headings of a table; the number of seeds has a column only where it is more than one."""
    seeds = ["n"] if any(num_trained(row) > 1 for row in rows) else []
    return ["backbone", "λ", *seeds, *map(score_label, scores), "train loss", "epochs", "run"]


def _md_table(rows: Sequence[Row], scores: Sequence[str], style: Style) -> list[str]:
    heads = columns(rows, scores)
    lines = ["| " + " | ".join(heads) + " |", "|:--" + "|--:" * (len(heads) - 1) + "|"]
    for row in rows:
        entries = [_md_entry(entry(rows, row, score, style), style) for score in scores]
        runs = [f"[{run[:8]}]({style.link(run)})" if style.run_url else f"`{run[:8]}`" for run in row["run_ids"]]
        lamb, seeds = f"{row['lambda']:g}", [str(row["num_seeds"])] if "n" in heads else []
        ends = [f"{row['train_loss']:.4g}", str(row["epochs"]), "<br>".join(runs) or ABSENT]
        lines.append(f"| {' | '.join([_md(backbone_label(row)), lamb, *seeds, *entries, *ends])} |")
    return lines


def _md_entry(found: Score, style: Style) -> str:
    def bold(text: str, best: bool) -> str:
        return f"**{text}**" if best else text

    spread = "" if found.std is None else f" ± {style.percent(found.std)}"
    lines = [found.collapsed or ABSENT]
    if found.learned is not None:
        lines = [bold(style.percent(found.learned) + spread, found.best), *filter(None, [found.collapsed])]
    for label, value, best in found.baselines:
        delta = "" if None in (value, found.learned) else f" ({style.points(found.learned - value)})"
        lines.append(f"{label} {bold(style.percent(value), best)}{delta}")
    return "<br>".join(lines)
