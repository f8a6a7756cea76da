"""Show tables and analyses on one page: `python -m stages.page [params.yaml]` writes reports/index.html.

It is made of the reports that the other stages wrote. What is not there, an analysis that was not asked for or that
failed, is named in its place.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from pipeline.reports import page_sections
from pipeline.reports.render import Section, page
from pipeline.runtime.errors import UserError
from pipeline.runtime.files import write_text
from pipeline.runtime.project import REPORTS, grid_name, reports_folder, repro_command, shown
from stages import run

FOOTER = (
    "The same numbers stand beside this page in comparison.md; its photographs are files in density/ and pictures/."
)


def main(params_path: str = "params.yaml") -> None:
    grid = grid_name(params_path)
    out, command = reports_folder(grid), repro_command(params_path)
    if not (table := out / "comparison.csv").is_file():
        raise UserError(f"no {table}; make it with: python -m stages.compare {shown(params_path)}")
    title, sections = page_sections.comparison_sections(out)

    def report(heading: str, stage: str) -> Callable[[Path], list[Section]]:
        made_by = f"python -m stages.{stage} {shown(params_path)}"
        return lambda folder: [page_sections.report_section(folder, heading, made_by, out)]

    analyses = {
        REPORTS / "diagnosis" / grid: (report("Model selection without labels", "diagnose"), command),
        out / "density": (report("In- and out-of-distribution scores", "density"), command),
        out / "pictures": (page_sections.picture_sections, command),
        out / "paper.md": (page_sections.paper_sections, "python -m stages.paper"),
    }
    for place, (make, remedy) in analyses.items():
        sections += section(place, make, remedy)
    downloads = {"comparison.csv": table.read_text(encoding="utf-8")}
    rows = pd.read_csv(table, dtype=str, keep_default_na=False)
    filters = {"data set": [*rows["dataset"].unique()], "backbone": [*rows["backbone"].unique()]}
    shown_page = page(title, sections, filters=filters, downloads=downloads, footer=FOOTER)
    write_text(out / "index.html", shown_page)
    print(f"See {out}/index.html")


def section(place: Path, make: Callable[[Path], list[Section]], remedy: str) -> list[Section]:
    """Make the sections of one analysis, or one that says why its files cannot be shown."""
    try:
        return make(place)
    except Exception as error:  # a broken file costs its own section alone
        told = f"{place} cannot be shown: {type(error).__name__}: {error}; remove it, then run: {remedy}"
        print(f"warning: {told}", file=sys.stderr)
        return [page_sections.note(place.stem.capitalize(), told)]


if __name__ == "__main__":
    run(main)
