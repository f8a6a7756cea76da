"""The report of a pipeline without data: its rows, its page in Markdown, its charts and the answers to its claims."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from pipeline.core.csv_files import csv_text
from pipeline.reports.claims import Claim, claims_table, write_claims
from pipeline.runtime.files import write_text
from pipeline.runtime.project import repro_command, shown
from pipeline.runtime.provenance import describe


@dataclass(frozen=True)
class Report:
    """What one pipeline has to say.

    Attributes:
        title: heading of the page.
        text: Markdown paragraphs and tables: what was measured, and what it shows.
        columns, rows: the CSV table.
        charts: SVG text by file name without suffix.
        claims: of the paper, answered.
    """

    title: str
    text: str
    columns: Sequence[str]
    rows: Sequence[Mapping[str, Any]]
    charts: Mapping[str, str]
    claims: Sequence[Claim]


def write_report(root: Path, params_path: str, report: Report, device: str) -> None:
    """Write <root>/<id>.csv, <id>.md, plots/<chart>.svg and claims/<id>.csv; <id> is the parameter file's folder.

    Args:
        root: the reports' folder.
        params_path: the parameter file, e.g. paper/figure3/params.yaml.
        report: what to write.
        device: where it was computed, e.g. cpu.
    """
    folder = Path(params_path).parent
    machine = describe(device)
    hardware, versions = machine["hardware"], machine["versions"]
    charts = "\n".join(f"![{name}](plots/{name}.svg)\n" for name in report.charts)
    page = (
        f"# {report.title}\n\n{report.text.strip()}\n\n{charts}\n## Claims\n\n{claims_table(report.claims)}\n"
        f"Command: `{repro_command(params_path)}`. Settings: `{shown(params_path)}`. Date: {date.today().isoformat()}. "
        f"Device: {hardware['device']}; {hardware['cpu']}, {hardware['num_cpus']} CPUs; "
        f"Python {versions['python']}, torch {versions['torch']}.\n"
    )
    write_text(root / f"{folder.name}.csv", csv_text(report.columns, report.rows))
    write_text(root / f"{folder.name}.md", page)
    write_claims(root / "claims" / f"{folder.name}.csv", report.claims)
    for name, svg in report.charts.items():
        write_text(root / "plots" / f"{name}.svg", svg)
