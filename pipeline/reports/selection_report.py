"""The report on label-free criteria: the table as CSV and back, and the page in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from pipeline.core.csv_files import csv_text, read_rows, rounded
from pipeline.reports.claims import markdown_table
from pipeline.reports.comparison import ABSENT
from pipeline.reports.paper_table import MINIATURE
from pipeline.reports.selection_text import STYLE, criterion_label, groups, interval_text, sentences, share, signed
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


@dataclass(frozen=True)
class Diagnosis:
    """All that the report of one grid says.

    Attributes:
        grid: its name.
        entries: of `correlation.select`.
        exponent: a of the rule.
        score: name of the accuracy that runs are judged by.
        paper: rows of `read_paper`.
        incomparable: axes of the grid that change what the loss measures.
        trained_on: hardware and commits of the pretrainings.
        missing: one line per cell without results.
        command: what makes the whole pipeline.
        settings: the parameter file.
    """

    grid: str
    entries: Sequence[Entry]
    exponent: float
    score: str
    paper: Sequence[Mapping[str, str]]
    incomparable: Sequence[str]
    trained_on: Sequence[str]
    missing: Sequence[str]
    command: str
    settings: str


def table_csv(entries: Iterable[Entry]) -> str:
    """Write the entries as CSV, measured numbers with six significant digits."""
    return csv_text(COLUMNS, ({**rounded(asdict(entry)), "a": entry.a} for entry in entries))


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


def read_paper(path: Path) -> list[dict[str, str]]:
    """Read the paper's own correlations: columns source, runs, a and spearman."""
    return read_rows(path, PAPER_COLUMNS)


def criteria_table(entries: Sequence[Entry], exponent: float) -> tuple[list[str], list[list[str]]]:
    """Return heads and rows of the table of criteria.

    Args:
        entries: of one group.
        exponent: a of the rule.
    """
    head = ["criterion", "runs", "ρ", "pick", "top-1", "regret", "held-out labels", "over random"]
    rows = []
    for label, entry in shown_entries(entries, exponent):
        numbers = [STYLE.percent(entry.accuracy), STYLE.percent(entry.regret)]
        numbers += [_points(entry.regret_to_holdout), _points(entry.gain)]
        numbers += [share(entry.within_point), share(entry.beats_random)]
        rows.append([label, str(entry.num_runs), interval_text(entry), _short(entry) or ABSENT, *numbers])
    return [*head, "within a point", "above the mean"], rows


def shown_entries(entries: Sequence[Entry], exponent: float) -> list[tuple[str, Entry]]:
    """Choose what of a group is shown, with labels: the rule, the plain loss, the best a, the other criteria."""
    best = hindsight(entries, RULE)
    found = [("{}, the rule", entry_of(entries, RULE, exponent))]
    found += [("{}", entry_of(entries, RULE, 0.0))] * (exponent != 0)
    found += [("{}, best a in hindsight", best)] * (best is not None and best.a not in (0, exponent))
    found += [("{}", entry) for entry in entries if entry.criterion != RULE]
    return [(form.format(criterion_label(entry)), entry) for form, entry in found if entry is not None]


def _short(entry: Entry) -> str:
    """Name the pick without its data set, which stands beside it."""
    return entry.pick.partition("--")[2]


def _points(value: float | None) -> str:
    return ABSENT if value is None else STYLE.points(value)


def markdown(diagnosis: Diagnosis, charts: Iterable[str]) -> str:
    """Write report.md.

    Args:
        diagnosis: what it says.
        charts: names of the SVG files beside it, without suffix.
    """
    entries, exponent = diagnosis.entries, diagnosis.exponent
    parts = [
        MINIATURE if diagnosis.grid.startswith("miniature-") else "",
        f"# Model selection without labels: grid {diagnosis.grid}",
        _list(sentences(entries, exponent, diagnosis.score).values()),
        READING,
        _caution(diagnosis.incomparable),
    ]
    for name in groups(entries):
        parts += [f"## {name}", markdown_table(*criteria_table(of_group(entries, name), exponent))]
    parts += ["## Loss / λ^a against accuracy", _exponent_table(entries)]
    parts += ["The best a is chosen with labels, on the runs that it is judged on: its ρ is too good, and no rule."]
    parts += ["## The rule by backbone", _backbone_table(entries, exponent)]
    parts += ["## Beside the paper", _paper_table(entries, diagnosis.paper)]
    parts += [f"![{name}]({name}.svg)" for name in charts]
    parts += ["## Missing cells", _list(diagnosis.missing)] if diagnosis.missing else []
    parts += [f"Command: `{diagnosis.command}`. Settings: `{diagnosis.settings}`."]
    parts += [f"Pretrained on: {where}." for where in diagnosis.trained_on]
    return "\n\n".join(part.strip() for part in parts if part) + "\n"


def _list(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _caution(axes: Sequence[str]) -> str:
    if not axes:
        return ""
    said = ", ".join(f"`{name}`" for name in axes)
    return f"These axes of the grid change what the training loss measures, so it need not order their runs: {said}."


def _exponent_table(entries: Sequence[Entry]) -> str:
    rows = []
    for name in groups(entries):
        group = of_group(entries, name)
        found, best = [entry_of(group, RULE, a) for a in SHOWN_EXPONENTS], hindsight(group, RULE)
        told = f"{best.a:g}: {interval_text(best)}" if best else ""
        rows.append([name, *(signed(entry.rho) if entry and entry.rho is not None else "" for entry in found), told])
    return markdown_table(["data set", *(f"a = {a:g}" for a in SHOWN_EXPONENTS), "best a in hindsight"], rows)


def _backbone_table(entries: Sequence[Entry], exponent: float) -> str:
    rows = []
    for entry in entries:
        if entry.backbone != ALL and (entry.criterion, entry.a) == (RULE, exponent):
            numbers = [STYLE.percent(value) for value in (entry.accuracy, entry.best, entry.random)]
            rows.append([entry.dataset, entry.backbone, entry.num_runs, interval_text(entry), _short(entry), *numbers])
    return markdown_table(["data set", "backbone", "runs", "ρ", "pick", "top-1", "best", "random"], rows)


def _paper_table(entries: Sequence[Entry], paper: Sequence[Mapping[str, str]]) -> str:
    names, rows = groups(entries), []
    for row in paper:
        found = [entry_of(of_group(entries, name), RULE, float(row["a"])) for name in names]
        ours = [interval_text(entry) if entry else ABSENT for entry in found]
        criterion = "train loss" if float(row["a"]) == 0 else f"train loss / λ^{row['a']}"
        rows.append([row["source"], row["runs"], criterion, row["spearman"], *ours])
    return markdown_table(["source", "its runs", "criterion", "paper", *names], rows)
