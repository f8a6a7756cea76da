"""The report on label-free criteria: the table as CSV and back, and the page in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import pandas as pd

from pipeline.core.csv_files import read_rows
from pipeline.reports.paper_table import MINIATURE
from pipeline.reports.render import (
    ABSENT,
    bullets,
    csv_text,
    figure,
    join,
    literal,
    markdown_table,
    percent,
    points,
    signed,
)
from pipeline.reports.selection_text import criterion_label, groups, interval_text, sentences, share
from pipeline.runtime.errors import UserError
from pipeline.selection.correlation import ALL, Entry, entry_of, hindsight, of_group
from pipeline.selection.criteria import RULE

COLUMNS = tuple(field.name for field in fields(Entry))
PAPER_COLUMNS = ("source", "runs", "a", "spearman")
SHOWN_EXPONENTS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
READING = """\
ρ is the Spearman correlation of a criterion with accuracy over runs, positive where the criterion puts the better run
first, whichever way it points itself (the paper prints magnitudes). In brackets: its 95 % percentile bootstrap
interval over runs; resamples in which one side is constant have no correlation and are left out (`num_degenerate` in
table.csv counts them). On simulated normal runs, 8 to 40 of them, such intervals hold the truth in 89 to 99 % of
cases (tests/selection/test_selection.py). *Regret*: points of accuracy that the pick is under the best run by test
labels, an oracle that no one has; *held-out labels*: the same against the run that is best on held-out training
labels, negative where the criterion did better. *Over random*: points over the mean of the runs. *Within a point*,
*above the mean*: the share of resamples in which that holds for the criterion's pick. *All*: the mean over data sets,
each run ranked within its own; correlations are weighed with runs - 1. Higher is taken to be better for ranks,
isotropy and LiDAR, lower for losses, mean cosine and Epps-Pulley; alpha-ReQ is best at 1. All but the three training
losses are taken on test images, without their labels.\
"""
CAPTIONS = {
    "plane": "The two terms of the loss at the last epoch, one point a run, coloured by accuracy. Ring: the run with "
    "the lowest training loss / λ^a, selected without labels; square: the best run by test labels.",
    "correlation": "Spearman correlation of training loss / λ^a with accuracy, against a; positive where a lower loss "
    "means higher accuracy. Band: 95 % bootstrap interval over runs. Crosses: the paper's runs.",
    "criteria": "The same for every label-free criterion, with its interval. Hollow: the best a in hindsight, which no "
    "one knows without labels.",
}
HEALTH_CAPTIONS = {
    "spectra": "Eigenvalues of the covariance on test images, as multiples of their mean: 1 everywhere is an isotropic "
    "cloud.",
    "epps-pulley": "Epps-Pulley statistic of slices on test images; shaded: where 95 % of normal samples lie; in "
    "percent: slices beyond it.",
    "health": "What was watched on held-out images after every epoch.",
}


@dataclass(frozen=True)
class Diagnosis:
    """All that the report of one grid says.

    Attributes:
        grid: its name.
        entries: of `correlation.select`.
        exponent: a of the rule.
        score: name of the accuracy that runs are judged by.
        paper: of `read_paper`.
        incomparable: settings that change what the loss measures and differ among runs of a task.
        trained_on: hardware and commits of the pretrainings.
        missing: one line per cell without results.
        command: what makes the whole pipeline.
        settings: the parameter file.
    """

    grid: str
    entries: Sequence[Entry]
    exponent: float
    score: str
    paper: pd.DataFrame
    incomparable: Sequence[str]
    trained_on: Sequence[str]
    missing: Sequence[str]
    command: str
    settings: str


def table_csv(entries: Iterable[Entry]) -> str:
    """Write the entries as CSV, measured numbers with six significant digits, the setting `a` exactly."""
    table = pd.DataFrame(map(asdict, entries), columns=COLUMNS)
    return csv_text(table.assign(a=table["a"].map(lambda a: "" if pd.isna(a) else repr(float(a)))))


def read_table(path: Path) -> list[Entry]:
    """Read what `table_csv` wrote.

    Raises:
        UserError: it is absent, has other columns, or a value of another kind; the message names it.
    """
    kinds = {field.name: field.type for field in fields(Entry)}
    try:
        return [
            Entry(**{name: _parsed(row[name], kinds[name]) for name in COLUMNS}) for row in read_rows(path, COLUMNS)
        ]
    except ValueError as error:
        raise UserError(f"{path} is broken ({error}); run: python -m stages.diagnose") from None


def _parsed(text: str, kind: str) -> str | int | float | None:
    if kind == "str":
        return text
    return int(text) if kind == "int" else float(text) if text else None


def read_paper(path: Path) -> pd.DataFrame:
    """Read the paper's own correlations: columns source, runs, a and spearman."""
    return pd.DataFrame(read_rows(path, PAPER_COLUMNS)).astype({"a": float, "spearman": float})


def criteria_table(entries: Sequence[Entry], exponent: float) -> pd.DataFrame:
    """Return the table of criteria as it is shown.

    Args:
        entries: of one group.
        exponent: a of the rule.
    """
    rows = [
        {
            "criterion": label,
            "runs": str(entry.num_runs),
            "ρ": interval_text(entry),
            "selected run": literal(_short(entry)),
            "top-1": percent(entry.accuracy),
            "regret": percent(entry.regret),
            "held-out labels": points(entry.regret_to_holdout),
            "over random": points(entry.gain),
            "within a point": share(entry.within_point),
            "above the mean": share(entry.beats_random),
        }
        for label, entry in shown_entries(entries, exponent)
    ]
    return pd.DataFrame(rows)


def shown_entries(entries: Sequence[Entry], exponent: float) -> list[tuple[str, Entry]]:
    """Choose what of a group is shown, with labels: the rule, the plain loss, the best a, the other criteria."""
    best = hindsight(entries, RULE)
    found = [("{}, the rule", entry_of(entries, RULE, exponent))]
    found += [("{}", entry_of(entries, RULE, 0.0))] * (exponent != 0)
    found += [("{}, best a in hindsight", best)] * (best is not None and best.a not in (0, exponent))
    found += [("{}", entry) for entry in entries if entry.criterion != RULE]
    return [(form.format(criterion_label(entry)), entry) for form, entry in found if entry is not None]


def _short(entry: Entry) -> str:
    """Name the selected run without its data set, which stands beside it."""
    return entry.pick.partition("--")[2]


def markdown(diagnosis: Diagnosis, charts: Iterable[str]) -> str:
    """Write report.md.

    Args:
        diagnosis: what it says.
        charts: names of the SVG files beside it, without suffix.
    """
    entries, exponent, charts = diagnosis.entries, diagnosis.exponent, list(charts)
    said = sentences(entries, exponent, diagnosis.score).values()
    parts = [
        MINIATURE if diagnosis.grid.startswith("miniature-") else "",
        f"# Model selection without labels: grid {literal(diagnosis.grid)}",
        bullets([literal(line) for line in said]),
        *_pictures(charts, CAPTIONS),
        READING,
        _caution(diagnosis.incomparable),
    ]
    for name in groups(entries):
        heading = "mean over data sets" if name == ALL else literal(name)
        parts += [f"## {heading}", markdown_table(criteria_table(of_group(entries, name), exponent))]
    parts += ["## Loss / λ^a against accuracy", markdown_table(exponent_table(entries))]
    parts += ["The best a is chosen with labels, on the runs that it is judged on: its ρ is optimistic."]
    parts += ["## The rule by backbone", markdown_table(backbone_table(entries, exponent))]
    parts += ["## Beside the paper", markdown_table(paper_table(entries, diagnosis.paper))]
    health = list(_pictures(charts, HEALTH_CAPTIONS))
    parts += ["## Embedding health", *health] if health else []
    parts += ["## Missing cells", bullets([literal(line) for line in diagnosis.missing])] if diagnosis.missing else []
    parts += [f"Command: `{diagnosis.command}`. Settings: `{diagnosis.settings}`."]
    parts += [literal(f"Pretrained on: {where}.") for where in diagnosis.trained_on]
    return join(*parts)


def _pictures(charts: Sequence[str], captions: Mapping[str, str]) -> Iterator[str]:
    for chart in charts:
        kind = next((kind for kind in captions if chart == kind or chart.startswith(f"{kind}-")), None)
        if kind:
            name = chart.removeprefix(kind).removeprefix("-")
            yield figure(f"{name}. {captions[kind]}" if name else captions[kind], f"{chart}.svg")


def _caution(settings: Sequence[str]) -> str:
    if not settings:
        return ""
    said = ", ".join(f"`{name}`" for name in settings)
    return f"Runs differ in settings that change what the training loss measures, so it need not order them: {said}."


def exponent_table(entries: Sequence[Entry]) -> pd.DataFrame:
    """Return the agreement of loss / λ^a with accuracy for some a, a row per data set."""
    rows = []
    for name in groups(entries):
        group = of_group(entries, name)
        row = {"data set": literal(name)}
        for a in SHOWN_EXPONENTS:
            entry = entry_of(group, RULE, a)
            row[f"a = {a:g}"] = signed(entry.rho) if entry and entry.rho is not None else ""
        best = hindsight(group, RULE)
        rows.append({**row, "best a in hindsight": f"{best.a:g}: {interval_text(best)}" if best else ""})
    return pd.DataFrame(rows)


def backbone_table(entries: Sequence[Entry], exponent: float) -> pd.DataFrame:
    """Return how the rule does within each backbone of a data set."""
    rows = [
        {
            "data set": literal(entry.dataset),
            "backbone": literal(entry.backbone),
            "runs": str(entry.num_runs),
            "ρ": interval_text(entry),
            "selected run": literal(_short(entry)),
            "top-1": percent(entry.accuracy),
            "best": percent(entry.best),
            "random": percent(entry.random),
        }
        for entry in entries
        if entry.backbone != ALL and (entry.criterion, entry.a) == (RULE, exponent)
    ]
    return pd.DataFrame(rows, columns=list(rows[0]) if rows else ["data set", "backbone"])


def paper_table(entries: Sequence[Entry], paper: pd.DataFrame) -> pd.DataFrame:
    """Return the paper's correlations beside ours, a column per data set."""
    shown = paper[["source", "runs"]].rename(columns={"runs": "its runs"})
    shown["criterion"] = paper["a"].map(lambda a: f"train loss / λ^{a:g}" if a else "train loss")
    shown["paper"] = paper["spearman"].astype(str)
    for name in groups(entries):
        ours = [entry_of(of_group(entries, name), RULE, a) for a in paper["a"]]
        shown[literal(name)] = [interval_text(entry) if entry else ABSENT for entry in ours]
    return shown
