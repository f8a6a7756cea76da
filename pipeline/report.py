"""What the comparison says, and comparison.md. Plain rows in, strings out; pipeline/sections.py says it in HTML.

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

    def link(self, run_id: str) -> str:
        """Address of a run in the MLflow UI; empty where it is not known."""
        return self.run_url.format(run_id=run_id)

    def points(self, fraction: float) -> str:
        """Write a difference of fractions in points, always signed; what rounds to zero is ±0."""
        text = f"{100 * fraction:+.{self.decimals}f}"
        return text.replace("-", "−") if float(text) else f"±{abs(float(text)):.{self.decimals}f}"


@dataclass(frozen=True)
class Score:
    """One entry of a table: a learned score, its spread, and baselines as (label, score or None, is best)."""

    learned: float | None
    std: float | None
    best: bool
    baselines: tuple[tuple[str, float | None, bool], ...]


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
    values = [(label, row.get(prefix + score)) for prefix, label in BASELINES.items()]
    baselines = tuple((label, value, is_best(value)) for label, value in values)
    return Score(learned, row.get(f"{score}_std"), is_best(learned), baselines)


def verdict(rows: Sequence[Row], scores: Iterable[str], style: Style) -> str:
    """Say in a sentence or two where a baseline is at least as good as every learned backbone of a data set."""
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
    counts = sorted({row["num_seeds"] for row in rows})
    if counts == [1]:
        spread = "One training seed each (n = 1); ± is the standard deviation over the few-shot draws."
    else:
        spread = (
            "Means over n training seeds; ± is their standard deviation, or where n = 1 that of the few-shot draws."
        )
    return (
        "Top-1 accuracy on the test split in percent, frozen backbone. Under each number: the same probe on the same "
        "backbone at random initialisation (random) and on raw pixels (pixels), and how many "
        f"points the learned features are above it (differences are taken before rounding). {spread} "
        "Bold: best of its column, baselines included."
    )


def summary_line(gain: Row, style: Style) -> str:
    """One line on a data set: learned minus random init, mean over its cells (`gain` of `tables.improvements`)."""
    parts = [
        f"{score_label(score)} {style.points(found['mean'])} points ({found['num_better']} of {found['n']} cells gain)"
        for score, found in gain["gains"].items()
    ]
    cells = f"{gain['num_cells']} cell{'s' * (gain['num_cells'] != 1)}"
    return f"{gain['dataset']}: learned minus random init, mean over {cells}: {', '.join(parts)}"


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
    seeds = ["n"] if any(row["num_seeds"] > 1 for row in rows) else []
    return ["backbone", "λ", *seeds, *map(score_label, scores), "train loss", "epochs", "run"]


def _md_table(rows: Sequence[Row], scores: Sequence[str], style: Style) -> list[str]:
    heads = columns(rows, scores)
    lines = ["| " + " | ".join(heads) + " |", "|:--" + "|--:" * (len(heads) - 1) + "|"]
    for row in rows:
        entries = [_md_entry(entry(rows, row, score, style), style) for score in scores]
        runs = [f"[{run[:8]}]({style.link(run)})" if style.run_url else f"`{run[:8]}`" for run in row["run_ids"]]
        lamb, seeds = f"{row['lambda']:g}", [str(row["num_seeds"])] if "n" in heads else []
        ends = [f"{row['train_loss']:.4g}", str(row["epochs"]), "<br>".join(runs) or ABSENT]
        lines.append(f"| {' | '.join([_md(row['backbone']), lamb, *seeds, *entries, *ends])} |")
    return lines


def _md_entry(found: Score, style: Style) -> str:
    def bold(text: str, best: bool) -> str:
        return f"**{text}**" if best else text

    spread = "" if found.std is None else f" ± {style.percent(found.std)}"
    lines = [bold(style.percent(found.learned) + spread, found.best)]
    for label, value, best in found.baselines:
        delta = "" if None in (value, found.learned) else f" ({style.points(found.learned - value)})"
        lines.append(f"{label} {bold(style.percent(value), best)}{delta}")
    return "<br>".join(lines)
