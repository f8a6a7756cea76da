"""Bring MLflow to what is on disk: `python -m stages.sync [params.yaml]`; running it again changes nothing.

Where the comparison names a run that is gone it is written anew, as `python -m stages.compare` does.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from pipeline.runtime.bars import DELAY_S, bar
from pipeline.runtime.errors import ResultError
from pipeline.runtime.project import reports_folder
from pipeline.settings.grid import open_listing
from pipeline.tracking.live_run import open_store
from pipeline.tracking.record import cell_record, comparison_rows, readable_picks
from pipeline.tracking.seed_means import seed_means
from stages import run


def main(params_path: str = "params.yaml") -> int:
    listing, records, missing = open_listing(params_path), [], []
    grid, cells, picks = listing.grid, listing.cells, readable_picks(listing.grid)
    for cell in cells:
        try:
            records.append(cell_record(cell.configs, picks))
        except ResultError as error:
            missing.append(f"{cell.key}: {error}")
    print(f"{len(records)} of {len(cells)} cells of grid {grid!r} have results", flush=True)
    print("".join(f"missing: {line}\n" for line in missing), end="", file=sys.stderr)
    store, runs = open_store(), [*records, *seed_means(records)]
    shown = bar("runs in MLflow", len(runs), unit="run", delay_s=DELAY_S, iterable=runs)
    for record in shown:
        if mended := store.disagreements(record):
            run_id = store.publish(record)
            shown.write(f"{record.cell}: run {run_id} written ({len(mended)} differences, first: {mended[0]})")
    print(f"MLflow holds {len(records)} of {len(cells)} cells; {len(missing)} have no results yet")
    table = reports_folder(grid) / "comparison.csv"
    # A paper pipeline's table names no runs.
    if grid == "default" and table.exists() and names_lost_runs(table, store.finished_runs(grid)):
        print(f"{table} names runs that are gone; python -m stages.compare {params_path}")
        return subprocess.run([sys.executable, "-m", "stages.compare", params_path]).returncode
    return 0


def names_lost_runs(table: Path, run_ids: dict[str, str]) -> bool:
    try:
        rows = comparison_rows(table)
    except ResultError:  # a broken table
        return True
    return any(run_ids.get(cell, row["mlflow_run_id"]) != row["mlflow_run_id"] for cell, row in rows.items())


if __name__ == "__main__":
    run(main)
