"""One page over all pipelines of the paper: claims, measurements, and what was not run."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.catalogue.validation import read_yaml
from pipeline.core.csv_files import read_rows
from pipeline.reports.claims import Claim, claims_table, read_claims
from pipeline.reports.render import bullets, join, literal, markdown_table
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


# Of reports/paper.csv, a line per pipeline: its folder under paper/, what it is and what the paper says that it shows
# ("" if its parameter file does not tell), what makes it, how many published numbers and claims there are, and how many
# of these are reproduced, differ or were not run.
COLUMNS = ("id", "title", "claim", "command", *COUNTS)


def read_pipelines(paper: Path, claims: Path) -> tuple[pd.DataFrame, dict[str, list[Claim]], list[str]]:
    """Read what every pipeline is and what was found.

    Args:
        paper: folder of the pipelines; each is a folder with a params.yaml.
        claims: folder of <id>.csv, one of each pipeline that was run.

    Returns:
        A row of COLUMNS per pipeline, {id: claims} of those that were run, and one line per broken file. Ids are in
        natural order.
    """
    rows: list[tuple] = []
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
        rows.append((name, *told, repro_command(path), *counts, numbers - counts[1] - counts[2]))
    return pd.DataFrame(rows, columns=COLUMNS), found, problems


def _natural(name: str) -> list[Any]:
    """Order table2 before table10."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def paper_markdown(
    summaries: pd.DataFrame, found: dict[str, list[Claim]], reports: Path, problems: Sequence[str]
) -> str:
    """Write the page.

    Args:
        summaries: of `read_pipelines`.
        found: claims of those that were run.
        reports: folder of the pipelines' pages, which are linked.
        problems: broken files.
    """
    shown = summaries.assign(title=summaries["title"].map(literal), command=summaries["command"].map("`{}`".format))
    shown = shown[["id", "title", *COUNTS, "command"]].rename(columns={"id": "pipeline", **COUNTS})
    parts = [INTRODUCTION, markdown_table(shown)]
    parts += [_details(summary, found.get(summary.id), reports) for summary in summaries.itertuples()]
    parts += ["## Broken files", bullets([literal(line) for line in problems])] if problems else []
    return join(*parts)


def _details(summary: Any, claims: Sequence[Claim] | None, reports: Path) -> str:
    answered = [claim for claim in claims or () if claim.verdict != "not run"]
    parts = [f"## {summary.title or summary.id}", claim_line(summary.claim), claims_table(answered) if answered else ""]
    if summary.not_run:
        parts.append(f"{summary.not_run} of {summary.published} not run; make them with `{summary.command}`.")
    elif claims is None:
        parts.append(f"Not run; make it with `{summary.command}`.")
    if claims is not None and (reports / f"{summary.id}.md").exists():
        parts.append(f"More: [{summary.id}.md](../{reports}/{summary.id}.md)")
    return join(*parts)


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
