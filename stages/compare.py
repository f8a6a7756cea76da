"""Compare the cells of a grid: `python -m stages.compare [params.yaml]` writes the tables and their figures.

Beside them lies what DVC's commands show: metrics.json (`dvc metrics`, `dvc exp show`) and curves.csv (`dvc plots`).
Runs on whatever is there; cells without results are named on stderr and in the tables. `stages.page` shows them.
"""

from __future__ import annotations

import shutil
import sys
from contextlib import suppress
from pathlib import Path

from pipeline.reports import comparison, figures_comparison, tables
from pipeline.reports.render import csv_text, markdown_table
from pipeline.runtime.errors import ResultError
from pipeline.runtime.files import write_json, write_text
from pipeline.runtime.project import reports_folder, repro_command
from pipeline.settings.cells import Cell
from pipeline.settings.grid import open_listing
from pipeline.tracking.live_run import open_store
from pipeline.tracking.place import pages
from pipeline.tracking.record import cell_record, readable_picks
from pipeline.tracking.seed_means import seed_means
from stages import run


def main(params_path: str = "params.yaml") -> int:
    listing = open_listing(params_path)
    params, grid, cells = listing.params, listing.grid, listing.cells
    command, out = repro_command(params_path), reports_folder(grid)
    experiment, run_ids = tracked(grid, cells)
    frame, missing = tables.collect(cells, Path(), run_ids=run_ids, command=command)
    if frame.empty:
        print("".join(f"missing: {line}\n" for line in missing), end="", file=sys.stderr)
        print(f"no cell of grid {grid!r} has results under runs/{grid}; run: {command}", file=sys.stderr)
        return 1
    curves, damaged = tables.histories(cells, Path(), command=command)
    missing += damaged
    rows, gains = tables.summarise(frame), tables.improvements(frame)
    labels = {score: comparison.score_label(score) for score in tables.score_columns(frame)}
    counted = f"Grid {grid}: {comparison.counted(gains, len(cells))}."
    decimals, address = params.report.decimals, comparison.run_address(pages(params.report.mlflow_url), experiment)
    text = comparison.markdown(params.report.title, counted, rows, gains, missing, decimals, address)
    write_text(out / "comparison.csv", tables.to_csv(frame))
    write_text(out / "comparison.md", text)
    write_text(out / "curves.csv", csv_text(curves))
    write_json(out / "metrics.json", tables.headline(rows))
    shutil.rmtree(out / "figures", ignore_errors=True)
    for name, svg in figures_comparison.comparison(rows, curves, labels).items():
        write_text(out / "figures" / f"{name}.svg", svg)
    print(f"{comparison.GAINS}\n\n{markdown_table(comparison.gains_table(gains, decimals))}")
    print(f"{counted} See {out}/comparison.md")
    print("".join(f"missing: {line}\n" for line in missing), end="", file=sys.stderr)
    return 0


def tracked(grid: str, cells: list[Cell]) -> tuple[str, dict[str, str]]:
    """Return experiment id and run ids; a cell that DVC restored from its cache gets its run here."""
    records, picks = {}, readable_picks(grid)
    for cell in cells:
        with suppress(ResultError):
            records[cell.key] = cell_record(cell.configs, picks)
    try:
        store = open_store()
        run_ids = store.finished_runs(grid)
        run_ids |= {key: store.publish(record) for key, record in records.items() if key not in run_ids}
        for mean in seed_means(records.values()):
            store.publish(mean)
        return store.experiment_id, run_ids
    except Exception as error:  # whatever ails the store, the tables are on disk and are shown
        print(f"warning: no run ids, the MLflow store is unavailable: {type(error).__name__}: {error}", file=sys.stderr)
        return "", {}


if __name__ == "__main__":
    run(main)
