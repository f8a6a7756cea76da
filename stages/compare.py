"""Compare the cells of a grid: `python -m stages.compare [params.yaml]` writes tables, figures and the page.

Runs on whatever is there; cells without results are named on stderr and in the reports.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path

from pipeline import figures, report, sections, tables, tracking
from pipeline.cells import Cell
from pipeline.diagnostics import page as diagnosis
from pipeline.files import write_text
from pipeline.gallery import page as gallery
from pipeline.listing import open_listing
from pipeline.page import page
from pipeline.params import reports_folder
from pipeline.project import REPORTS, repro_command
from pipeline.published.overview import paper_section
from pipeline.results import ResultError, cell_record
from pipeline.typicality import page as typicality
from stages import run

RUN_URL = "http://127.0.0.1:5000/#/experiments/{experiment}/runs/{{run_id}}"  # where `make ui` serves
FOOTER = "The same numbers stand beside this page in comparison.csv and comparison.md."


def main(params_path: str = "params.yaml") -> int:
    listing = open_listing(params_path)
    params, grid, cells = listing.params, listing.grid, listing.cells
    command = repro_command(params_path)
    out, (experiment, run_ids) = reports_folder(grid), tracked(grid, cells)
    frame, missing = tables.collect(cells, Path(), run_ids=run_ids, command=command)
    if frame.empty:
        print(f"no cell of grid {grid!r} has results under runs/{grid}; run: {command}", file=sys.stderr)
        return 1
    curves, damaged = tables.histories(cells, Path(), command=command)
    missing += damaged
    style = report.Style(params.report.decimals, RUN_URL.format(experiment=experiment) if experiment else "")
    rows, gains, scores = tables.summarise(frame), tables.improvements(frame), tables.score_columns(frame)
    charts = figures.comparison(rows, curves, {score: report.score_label(score) for score in scores})
    subtitle = f"Grid {grid}: {report.counted(gains, len(cells))}."
    shown = sections.comparison(rows, gains, scores, charts, missing, style)
    shown += diagnosis.section(REPORTS / "diagnosis" / grid)
    shown += typicality.section(out / "density") + gallery.section(out / "pictures") + paper_section(out / "paper.csv")
    write_text(out / "comparison.csv", tables.to_csv(frame))
    write_text(out / "comparison.md", report.markdown(params.report.title, rows, gains, scores, missing, style))
    write_text(out / "index.html", page(params.report.title, subtitle, shown, FOOTER))
    for old in (out / "figures").glob("*.svg"):
        old.unlink()
    for name, svg in charts.items():
        write_text(out / "figures" / f"{name}.svg", svg)
    print("\n".join([*(report.summary_line(gain, style) for gain in gains), f"{subtitle} See {out}/index.html"]))
    print("".join(f"missing: {line}\n" for line in missing), end="", file=sys.stderr)
    return 0


def tracked(grid: str, cells: list[Cell]) -> tuple[str, dict[str, str]]:
    """Return experiment id and run ids; a cell that DVC restored from its cache gets its run here."""
    try:
        store = tracking.Store()
        run_ids = store.finished_runs(grid)
        for cell in cells:
            with suppress(ResultError):
                if cell.key not in run_ids:
                    run_ids[cell.key] = store.publish(cell_record(cell.configs))
        return store.experiment_id, run_ids
    except Exception as error:  # whatever ails the store, the tables are on disk and are shown
        print(f"warning: no run ids, MLflow is out of reach: {type(error).__name__}: {error}", file=sys.stderr)
        return "", {}


if __name__ == "__main__":
    run(main)
