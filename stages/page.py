"""Show tables and analyses on one page: `python -m stages.page [params.yaml]` writes reports/index.html.

What is not there, an analysis that was not asked for or that failed, is named in its place.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from html import escape
from pathlib import Path

from pipeline.reports import comparison, comparison_html, tables
from pipeline.reports import density_html as typicality
from pipeline.reports import pictures_html as gallery
from pipeline.reports import selection_html as diagnosis
from pipeline.reports.html import page
from pipeline.reports.paper_overview import paper_section
from pipeline.runtime.files import write_text
from pipeline.runtime.project import REPORTS, reports_folder, repro_command
from pipeline.settings.grid import open_listing
from pipeline.tracking.live_run import open_store
from pipeline.tracking.place import pages
from stages import run

FOOTER = "The same numbers stand beside this page in comparison.csv and comparison.md."


def main(params_path: str = "params.yaml") -> None:
    listing = open_listing(params_path)
    settings, cells, out = listing.params.report, listing.cells, reports_folder(listing.grid)
    run_ids = tables.read_run_ids(out / "comparison.csv")
    frame, missing = tables.collect(cells, Path(), run_ids=run_ids, command=repro_command(params_path))
    rows, gains, scores = tables.summarise(frame), tables.improvements(frame), tables.score_columns(frame)
    charts = {path.stem: path.read_text(encoding="utf-8") for path in sorted((out / "figures").glob("*.svg"))}
    style = comparison.Style.linked(settings.decimals, pages(settings.mlflow_url), experiment())
    subtitle = f"Grid {listing.grid}: {comparison.counted(gains, len(cells))}."
    shown = comparison_html.comparison(rows, gains, scores, charts, missing, style)
    analyses = {
        REPORTS / "diagnosis" / listing.grid: diagnosis.section,
        out / "density": typicality.section,
        out / "pictures": gallery.section,
        out / "paper.csv": paper_section,
    }
    for place, make in analyses.items():
        shown += section(place, make)
    write_text(out / "index.html", page(settings.title, subtitle, shown, FOOTER))
    print(f"{subtitle} See {out}/index.html")


def section(place: Path, make: Callable[[Path], list[tuple[str, str]]]) -> list[tuple[str, str]]:
    """Make the sections of one analysis, or one that says why its files cannot be shown."""
    try:
        return make(place)
    except Exception as error:  # a broken file costs its own section alone
        told = f"{place} cannot be shown: {type(error).__name__}: {error}; remove it, then run: dvc repro"
        print(f"warning: {told}", file=sys.stderr)
        return [(place.stem.capitalize(), f'<p class="note">{escape(told)}</p>')]


def experiment() -> str:
    """Return the id of the experiment in MLflow; "" if the store cannot be read."""
    try:
        return open_store().experiment_id
    except Exception as error:  # whatever ails the store, the page needs no links
        print(f"warning: no links to MLflow: {type(error).__name__}: {error}", file=sys.stderr)
        return ""


if __name__ == "__main__":
    run(main)
