"""Every number of a pipeline under paper/: as published, as others report it, and as it was measured here.

reported.csv beside published.csv holds what others report: columns named like an axis say which numbers it is about,
`top1` is the number in percent or in words, `how` the recipe as far as it is told, `source` where it stands.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.reports.claims import COLUMNS, Claim
from pipeline.reports.paper_pairing import DEFAULT_METRIC, described
from pipeline.reports.paper_table import in_shape
from pipeline.reports.render import bullets, join, literal, markdown_table
from pipeline.runtime.errors import UserError
from pipeline.settings.grid import plain

REPORTED = "reported.csv"
NEEDED = ("top1", "how", "source")
IMAGES = "images.csv"  # in paper/: training images as the paper counts them and as they are here
READING = "In each place: the published number; what others report, by the list below; ours, or *not run*."


def read_reported(path: Path) -> list[dict[str, str]]:
    """Read what others report; nothing where there is no such file.

    Raises:
        UserError: a column is missing, or a row is not whole.
    """
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    if not all(row.get(name) for row in rows for name in NEEDED) or any(None in row for row in rows):
        raise UserError(f"{path}: every row needs {', '.join(NEEDED)} beside what names its cells; complete it")
    return rows


def pair_numbers(
    published: Sequence[Mapping[str, str]],
    reported: Sequence[Mapping[str, str]],
    claims: Sequence[Claim],
    known: Sequence[str],
) -> pd.DataFrame:
    """Pair published numbers of cells with what others report and with what was measured here.

    Args:
        published: rows of published.csv.
        reported: of `read_reported`.
        claims: of the pipeline's report; none before it was run.
        known: names of the axes.

    Returns:
        A row per number: the axes as text, which `attrs["axes"]` names, metric, label, `reported` by others ("60, 61")
        and the fields of `Claim`.
    """
    axes, found = [axis for axis in known if any(axis in row for row in published)], {one.claim: one for one in claims}
    rows = []
    for row in published:
        what = described(row, known)
        about = {axis: plain(row.get(axis)) for axis in axes} | {"metric": row.get("metric") or DEFAULT_METRIC}
        about["label"] = row.get("label") or row.get("reduce") or ""
        about["reported"] = ", ".join(other["top1"] for other in reported if _same_cells(row, other, known))
        rows.append(about | asdict(found.get(what) or Claim(what, row["top1"], "", "", 0, "not run")))
    numbers = pd.DataFrame(rows, columns=[*axes, "metric", "label", "reported", *COLUMNS])
    numbers.attrs["axes"] = axes
    return numbers


def _same_cells(row: Mapping[str, str], other: Mapping[str, str], known: Sequence[str]) -> bool:
    """Whether a report names cells, and all that it names is so of the published row."""
    named = [axis for axis in known if other.get(axis)]
    same = all(plain(row.get(axis)) == plain(other[axis]) for axis in named)
    metrics = [one.get("metric") or DEFAULT_METRIC for one in (row, other)]
    return bool(named) and same and metrics[0] == metrics[1]


def numbers_text(numbers: pd.DataFrame, reported: Sequence[Mapping[str, str]]) -> str:
    """Write the numbers of cells in the layout of the paper's table, and what others report with its source."""
    shown = numbers.assign(shown=[_shown(row) for row in numbers.to_dict("records")])
    lines = [_report(row) for row in reported]
    return join(READING, markdown_table(in_shape(shown)), *(["Others report:", bullets(lines)] if lines else []))


def _shown(row: Mapping[str, Any]) -> str:
    others = [f"others {row['reported']}"] if row["reported"] else []
    spread = f" ± {row['std']}" if row["std"] else ""
    ours = f"ours {row['ours']}{spread}, {row['verdict']}" if row["ours"] else row["verdict"]
    return "; ".join([row["published"], *others, ours])


def _report(row: Mapping[str, str]) -> str:
    told = [(name, value) for name, value in row.items() if value and name not in NEEDED]
    about = ", ".join(f"{name} {value}" if plain(value)[:1].isdigit() else value for name, value in told)
    place = row["source"].removeprefix("https://")
    return f"{literal(about)}: **{literal(row['top1'])}**, {literal(row['how'])} ([{place}]({row['source']}))"


def images_text(path: Path, datasets: Sequence[str]) -> str:
    """Write how many training images of some data sets the paper counts and how many are here; "" if it tells none."""
    if not path.exists():
        return ""
    with path.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["dataset"] in datasets]
    heads = {"dataset": "training images of", "paper": "in the paper", "here": "here"}
    return markdown_table(pd.DataFrame(rows).rename(columns=heads)) if rows else ""
