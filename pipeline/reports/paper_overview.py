"""One page over all pipelines of the paper: claims, measurements, and what was not run."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.catalogue.validation import read_yaml
from pipeline.core.csv_files import csv_text, read_rows
from pipeline.reports.claims import Claim, claims_table, markdown_table, read_claims
from pipeline.reports.render import literal
from pipeline.runtime.errors import UserError
from pipeline.runtime.project import repro_command
from pipeline.settings.grid import published_rows

COUNTS = {"published": "numbers", "reproduced": "reproduced", "differs": "differs", "not_run": "not run"}
INTRODUCTION = """\
# The tables and figures of the paper

Every table and figure of *LeJEPA* (arXiv 2511.08544) that has a pipeline, and what became of each of its numbers and
claims. *Reproduced*, *differs*: measured here, and within the stated deviation or not. *Not run*: nothing is said. Made
by `python -m stages.paper` from `paper/reports/claims/`; every other number of ours stands on the page that is named.\
"""


@dataclass(frozen=True)
class Summary:
    """One pipeline in a line of reports/paper.csv.

    Attributes:
        id: its folder under paper/.
        title, claim: what it is, and what the paper says that it shows; "" where its parameter file does not tell.
        command: what makes it.
        published: published numbers and claims.
        reproduced, differs, not_run: how many of these are so; together `published`.
    """

    id: str
    title: str
    claim: str
    command: str
    published: int
    reproduced: int
    differs: int
    not_run: int


COLUMNS = tuple(field.name for field in fields(Summary))


def read_pipelines(paper: Path, claims: Path) -> tuple[dict[str, Summary], dict[str, list[Claim]], list[str]]:
    """Read what every pipeline is and what was found.

    Args:
        paper: folder of the pipelines; each is a folder with a params.yaml.
        claims: folder of <id>.csv, one of each pipeline that was run.

    Returns:
        {id: summary}, {id: claims} of those that were run, and one line per broken file. Ids are in natural order.
    """
    summaries: dict[str, Summary] = {}
    found: dict[str, list[Claim]] = {}
    problems: list[str] = []
    for path in sorted(paper.glob("*/params.yaml"), key=lambda path: _natural(path.parent.name)):
        name, answers = path.parent.name, claims / f"{path.parent.name}.csv"
        report: dict[str, Any] = {}
        try:
            sections = read_yaml(path)
            report = sections["report"] if isinstance(sections.get("report"), dict) else sections
            if answers.exists():
                found[name] = read_claims(answers)
        except UserError as error:
            problems.append(str(error))
        told = (str(report.get(key) or "").strip() for key in ("title", "claim"))
        numbers = len(found[name]) if name in found else len(published_rows(path))
        verdicts = [claim.verdict for claim in found.get(name, ())]
        counts = (numbers, *(verdicts.count(verdict) for verdict in ("reproduced", "differs")))
        command = repro_command(path)
        summaries[name] = Summary(name, *told, command, *counts, numbers - counts[1] - counts[2])
    return summaries, found, problems


def _natural(name: str) -> list[Any]:
    """Order table2 before table10."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def paper_csv(summaries: Sequence[Summary]) -> str:
    """Write one line per pipeline."""
    return csv_text(COLUMNS, map(asdict, summaries))


def paper_markdown(
    summaries: Sequence[Summary], found: dict[str, list[Claim]], reports: Path, problems: Sequence[str]
) -> str:
    """Write the page.

    Args:
        summaries: of all pipelines.
        found: claims of those that were run.
        reports: folder of the pipelines' pages, which are linked.
        problems: broken files.
    """
    head = ["pipeline", "title", *COUNTS.values(), "command"]
    rows = [[s.id, s.title, *(getattr(s, name) for name in COUNTS), f"`{s.command}`"] for s in summaries]
    parts = [INTRODUCTION, markdown_table(head, rows)]
    parts += [_details(summary, found.get(summary.id), reports) for summary in summaries]
    parts += ["## Broken files\n\n" + "\n".join(f"- {line}" for line in problems)] if problems else []
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _details(summary: Summary, claims: Sequence[Claim] | None, reports: Path) -> str:
    answered = [claim for claim in claims or () if claim.verdict != "not run"]
    parts = [f"## {summary.title or summary.id}", claim_line(summary.claim), claims_table(answered) if answered else ""]
    if summary.not_run:
        parts.append(f"{summary.not_run} of {summary.published} not run; make them with `{summary.command}`.")
    elif claims is None:
        parts.append(f"Not run; make it with `{summary.command}`.")
    if claims is not None and (reports / f"{summary.id}.md").exists():
        parts.append(f"More: [{summary.id}.md](../{reports}/{summary.id}.md)")
    return "\n\n".join(part.strip() for part in parts if part)


def claim_line(claim: str) -> str:
    """Write the claim of a parameter file as a paragraph; "" if there is none."""
    return f"Under test: {claim}{'' if claim.endswith(('.', '?', '!')) else '.'}" if claim else ""


def overview_table(path: Path) -> pd.DataFrame:
    """Return reports/paper.csv as index.html shows it.

    Raises:
        UserError: the file has other columns.
    """
    found = pd.DataFrame(read_rows(path, COLUMNS), columns=COLUMNS)
    names = found["title"].where(found["title"] != "", found["id"]).map(literal)
    claims = found["claim"].map(lambda claim: f"<br>*{literal(claim)}*" if claim else "")
    command = found["command"].map("<br>`{}`".format)
    return pd.DataFrame(
        {"table or figure": names + claims + command, **{head: found[name] for name, head in COUNTS.items()}}
    )
