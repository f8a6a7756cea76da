"""Show tables and analyses on one page: `python -m stages.page [params.yaml]` writes reports/index.html.

It is made of the reports that the other stages wrote. What is not there, an analysis that was not asked for or that
failed, is named in its place.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from pipeline.reports import page_sections
from pipeline.reports.render import Section, page
from pipeline.runtime.files import write_text
from pipeline.runtime.project import REPORTS, grid_name, reports_folder
from stages import run

FOOTER = "The same numbers stand beside this page in comparison.csv and comparison.md."


def main(params_path: str = "params.yaml") -> None:
    grid = grid_name(params_path)
    out = reports_folder(grid)
    title, shown = page_sections.comparison_sections(out)
    analyses = {
        REPORTS / "diagnosis" / grid: partial(report, "Model selection without labels", "diagnose", out),
        out / "density": partial(report, "In- and out-of-distribution scores", "density", out),
        out / "pictures": page_sections.picture_sections,
        out / "paper.csv": page_sections.paper_sections,
    }
    for place, make in analyses.items():
        shown += section(place, make)
    downloads = {"comparison.csv": (out / "comparison.csv").read_text(encoding="utf-8")}
    write_text(out / "index.html", page(title, shown, downloads=downloads, footer=FOOTER))
    print(f"See {out}/index.html")


def report(heading: str, stage: str, out: Path, folder: Path) -> list[Section]:
    return [page_sections.report_section(folder, heading, f"python -m stages.{stage}", out)]


def section(place: Path, make: Callable[[Path], list[Section]]) -> list[Section]:
    """Make the sections of one analysis, or one that says why its files cannot be shown."""
    try:
        return make(place)
    except Exception as error:  # a broken file costs its own section alone
        told = f"{place} cannot be shown: {type(error).__name__}: {error}; remove it, then run: dvc repro"
        print(f"warning: {told}", file=sys.stderr)
        return [page_sections.note(place.stem.capitalize(), told)]


if __name__ == "__main__":
    run(main)
