"""One page over all pipelines of the paper: numbers, what others report, ours, settings, and what was not run."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.catalogue.validation import read_yaml
from pipeline.reports.claims import COLUMNS as CLAIM
from pipeline.reports.claims import Claim, claim_line, claims_table, read_claims
from pipeline.reports.paper_numbers import IMAGES, REPORTED, images_text, numbers_text, pair_numbers, read_reported
from pipeline.reports.paper_pairing import axis_names
from pipeline.reports.paper_settings import Told, settings_text, told_settings
from pipeline.reports.render import bullets, join, literal, markdown_table
from pipeline.runtime.errors import UserError
from pipeline.runtime.project import repro_command
from pipeline.settings.grid import published_rows

INTRODUCTION = """\
# The tables and figures of the paper

Every table and figure of *LeJEPA* (arXiv 2511.08544) that has a pipeline, and what became of each of its numbers and
claims. *Reproduced*, *differs*: measured here, and within the stated deviation or not. *Not run*: nothing is said. What
others report is from `paper/*/reported.csv`, each with its source; their recipes, and often their data, are not the
paper's. Which settings are stated and which are guesses is read from the comments of the parameter files. Made by
`python -m stages.paper`; every other number of ours stands on the page that is named.\
"""


@dataclass(frozen=True)
class Pipeline:
    """A folder under paper/ with a params.yaml.

    Attributes:
        title, claim: what it is and what the paper says that it shows; "" if its parameter file does not tell.
        command: what makes it.
        datasets: of its grid, those that are transferred to among them.
        claims: of its report; None before it was run.
        numbers: of `paper_numbers.pair_numbers`, or its claims where it has no cells.
        reported: of `paper_numbers.read_reported`.
        settings: of `paper_settings.told_settings`.
    """

    name: str
    title: str
    claim: str
    command: str
    datasets: list[str]
    claims: list[Claim] | None
    numbers: pd.DataFrame
    reported: list[dict[str, str]]
    settings: list[Told]

    @property
    def counts(self) -> dict[str, int]:
        """How many numbers and claims there are, and what became of them."""
        verdicts = list(self.numbers["verdict"])
        found = {name: verdicts.count(name) for name in ("reproduced", "differs", "not run")}
        return {"numbers": len(verdicts), "reported by others": len(self.reported), **found}


def read_pipelines(paper: Path, claims: Path) -> tuple[list[Pipeline], list[str]]:
    """Read what every pipeline is and what was found.

    Args:
        paper: folder of the pipelines; each is a folder with a params.yaml.
        claims: folder of <name>.csv, one of each pipeline that was run.

    Returns:
        Pipelines in the natural order of their names, and one line per broken file.
    """
    problems: list[str] = []

    def read(reader: Callable[[Path], Any], path: Path, default: Any) -> Any:
        try:
            return reader(path)
        except UserError as error:
            problems.append(str(error))
            return default

    def pipeline(path: Path) -> Pipeline:
        name, sections = path.parent.name, read(read_yaml, path, {})
        report = sections["report"] if isinstance(sections.get("report"), dict) else sections
        title, claim = (str(report.get(key) or "").strip() for key in ("title", "claim"))
        reported = read(read_reported, path.with_name(REPORTED), [])
        answers = claims / f"{name}.csv"
        found = read(read_claims, answers, None) if answers.exists() else None
        grid = sections.get("grid")
        if grid is None:
            numbers = pd.DataFrame(map(asdict, found or ()), columns=[*CLAIM, "reported"]).fillna({"reported": ""})
        else:
            numbers = pair_numbers(published_rows(path), reported, found or (), axis_names(grid.get("axes") or ()))
        datasets = [*(grid or {}).get("datasets", ()), *(grid or {}).get("targets", ())]
        about = name, title, claim, repro_command(path), datasets
        return Pipeline(*about, found, numbers, reported, read(told_settings, path, []) if sections else [])

    paths = sorted(paper.glob("*/params.yaml"), key=lambda path: _natural(path.parent.name))
    return [pipeline(path) for path in paths], problems


def _natural(name: str) -> list[Any]:
    """Order table2 before table10."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def csv_table(pipelines: Sequence[Pipeline]) -> pd.DataFrame:
    """Return a row per published number: reports/paper.csv."""
    columns = ["pipeline", "claim", "published", "reported", "ours", "std", "seeds", "verdict"]
    rows = [{"pipeline": one.name, **row} for one in pipelines for row in one.numbers.to_dict("records")]
    return pd.DataFrame(rows).reindex(columns=columns)


def paper_markdown(pipelines: Sequence[Pipeline], problems: Sequence[str], paper: Path, reports: Path) -> str:
    """Write the page.

    Args:
        pipelines, problems: of `read_pipelines`.
        paper: their folder.
        reports: folder of their pages, which are linked.
    """
    rows = [
        {"pipeline": one.name, "title": literal(one.title), **one.counts, "command": f"`{one.command}`"}
        for one in pipelines
    ]
    parts = [INTRODUCTION, markdown_table(pd.DataFrame(rows))]
    parts += [_details(one, paper, reports) for one in pipelines]
    return join(*parts, *(["## Broken files", bullets([literal(line) for line in problems])] if problems else []))


def _details(one: Pipeline, paper: Path, reports: Path) -> str:
    counts, page = one.counts, reports / f"{one.name}.md"
    parts = [f"## {one.title or one.name}", claim_line(one.claim)]
    if counts["numbers"]:
        is_grid = "metric" in one.numbers
        parts.append(numbers_text(one.numbers, one.reported) if is_grid else claims_table(one.claims or ()))
        parts += [images_text(paper / IMAGES, one.datasets), settings_text(one.settings, one.name)]
    if counts["not run"]:
        parts.append(f"{counts['not run']} of {counts['numbers']} not run; make them with `{one.command}`.")
    elif one.claims is None:
        parts.append(f"Not run; make it with `{one.command}`.")
    if one.claims is not None and page.exists():
        parts.append(f"More: [{page.name}](../{page})")
    return join(*parts)
