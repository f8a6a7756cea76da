"""Show tables and analyses on one page: `python -m stages.page [params.yaml]` writes reports/index.html.

What is not there, an analysis that was not asked for or that failed, is named in its place.
"""

from __future__ import annotations

import sys
from pathlib import Path

from pipeline import report, sections, tables, tracking
from pipeline.diagnostics import page as diagnosis
from pipeline.files import write_text
from pipeline.gallery import page as gallery
from pipeline.listing import open_listing
from pipeline.page import page
from pipeline.params import reports_folder
from pipeline.project import REPORTS, repro_command
from pipeline.published.overview import paper_section
from pipeline.typicality import page as typicality
from stages import run

FOOTER = "The same numbers stand beside this page in comparison.csv and comparison.md."


def main(params_path: str = "params.yaml") -> None:
    listing = open_listing(params_path)
    settings, cells, out = listing.params.report, listing.cells, reports_folder(listing.grid)
    run_ids = tables.read_run_ids(out / "comparison.csv")
    frame, missing = tables.collect(cells, Path(), run_ids=run_ids, command=repro_command(params_path))
    rows, gains, scores = tables.summarise(frame), tables.improvements(frame), tables.score_columns(frame)
    charts = {path.stem: path.read_text(encoding="utf-8") for path in sorted((out / "figures").glob("*.svg"))}
    style = report.Style.linked(settings.decimals, settings.mlflow_url, experiment())
    subtitle = f"Grid {listing.grid}: {report.counted(gains, len(cells))}."
    shown = sections.comparison(rows, gains, scores, charts, missing, style)
    shown += diagnosis.section(REPORTS / "diagnosis" / listing.grid)
    shown += typicality.section(out / "density") + gallery.section(out / "pictures") + paper_section(out / "paper.csv")
    write_text(out / "index.html", page(settings.title, subtitle, shown, FOOTER))
    print(f"{subtitle} See {out}/index.html")


def experiment() -> str:
    """Return the id of the experiment in MLflow; "" if the store cannot be read."""
    try:
        return tracking.Store().experiment_id
    except Exception as error:  # whatever ails the store, the page needs no links
        print(f"warning: no links to MLflow: {type(error).__name__}: {error}", file=sys.stderr)
        return ""


if __name__ == "__main__":
    run(main)
