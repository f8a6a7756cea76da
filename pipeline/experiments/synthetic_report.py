"""The report of an experiment: its rows, its page in Markdown, its charts and the answers to its claims."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import pandas

from pipeline.reports.claims import Claim, claims_table, write_claims
from pipeline.reports.render import csv_text
from pipeline.runtime.files import write_text
from pipeline.runtime.project import repro_command, shown
from pipeline.runtime.provenance import describe


@dataclass(frozen=True)
class Report:
    """What one pipeline has to say.

    Attributes:
        title: heading of the page.
        text: Markdown paragraphs and tables: what was measured, and what it shows.
        table: of the CSV file.
        charts: SVG text by file name without suffix.
        claims: of the paper, answered; none where it makes none.
        digits: significant ones of the numbers in the CSV file.
    """

    title: str
    text: str
    table: pandas.DataFrame
    charts: Mapping[str, str]
    claims: Sequence[Claim]
    digits: int = 6


def write_report(root: Path, params_path: str, report: Report, device: str) -> None:
    """Write <root>/<id>.csv, <id>.md, plots/<chart>.svg and claims/<id>.csv; <id> is the parameter file's folder.

    Args:
        root: the reports' folder.
        params_path: the parameter file, e.g. paper/figure3/params.yaml.
        report: what to write.
        device: where it was computed, e.g. cpu.
    """
    folder = Path(params_path).parent
    charts = "\n".join(f"![{name}](plots/{name}.svg)\n" for name in report.charts)
    claims = f"## Claims\n\n{claims_table(report.claims)}\n" if report.claims else ""
    page = (
        f"# {report.title}\n\n{report.text.strip()}\n\n{charts}\n{claims}"
        f"Command: `{repro_command(params_path)}`. Settings: `{shown(params_path)}`. {machine_line(device)}\n"
    )
    write_text(root / f"{folder.name}.csv", csv_text(report.table, report.digits))
    write_text(root / f"{folder.name}.md", page)
    write_claims(root / "claims" / f"{folder.name}.csv", report.claims)
    for name, svg in report.charts.items():
        write_text(root / "plots" / f"{name}.svg", svg)


def prose(name: str, /, **values: Any) -> str:
    """Return the text of <name>.md beside this module, its fields filled as by `str.format`."""
    return Path(__file__).with_name(f"{name}.md").read_text(encoding="utf-8").format(**values)


def machine_line(device: str) -> str:
    """Say when and on what a report was made."""
    machine = describe(device)
    hardware, versions = machine["hardware"], machine["versions"]
    return (
        f"Date: {date.today().isoformat()}. Device: {hardware['device']}; {hardware['cpu']}, {hardware['num_cpus']} "
        f"CPUs; Python {versions['python']}, torch {versions['torch']}."
    )


def records(table: pandas.DataFrame) -> list[dict[str, Any]]:
    """Return the rows of a table as plain values: None where there is no value."""
    return table.astype(object).where(table.notna(), None).to_dict("records")


def plus_minus(mean: float | None, std: float | None, form: str = ".3f") -> str:
    """Write mean ± standard deviation; the mean alone without a deviation, nothing without a mean."""
    if pandas.isna(mean):
        return ""
    return f"{mean:{form}}" if pandas.isna(std) else f"{mean:{form}} ± {std:{form}}"
