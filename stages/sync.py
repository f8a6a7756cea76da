"""Bring MLflow to what is on disk: `python -m stages.sync [params.yaml]`; running it again changes nothing.

Where the comparison names a run that is gone it is written anew, as `python -m stages.compare` does.
"""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

from pipeline.core.results import ResultError
from pipeline.runtime.bars import DELAY_S, bar
from pipeline.runtime.project import REPORTS, reports_folder
from pipeline.settings.cells import Cell
from pipeline.settings.grid import open_listing
from pipeline.tracking.diff import recorded_picks
from pipeline.tracking.record import cell_record
from pipeline.tracking.store import Store
from stages import run


def main(params_path: str = "params.yaml") -> int:
    listing, store, missing = open_listing(params_path), Store(), []
    grid, cells = listing.grid, listing.cells
    shown = bar("cells in MLflow", len(cells), unit="cell", delay_s=DELAY_S, iterable=cells)
    for cell in shown:
        try:
            record = cell_record(cell.configs)
        except ResultError as error:
            missing.append(f"{cell.key}: {error}")
            continue
        mended = store.disagreements(record)
        if mended:
            run_id = store.publish(record)
            shown.write(f"{cell.key}: run {run_id} written ({len(mended)} differences, first: {mended[0]})")
    picks = recorded_picks(REPORTS / "diagnosis" / grid / "picks")
    for wrong, tagged, picked in store.wrong_picks(grid, picks):
        print(f"{wrong.data.tags.get('cell')}: tag picked_by set to {picked or 'nothing'}, was {tagged or 'nothing'}")
    store.tag_picks(grid, picks)
    print(f"MLflow holds {len(cells) - len(missing)} of {len(cells)} cells; {len(missing)} have no results yet")
    print("".join(f"missing: {line}\n" for line in missing), end="", file=sys.stderr)
    table = reports_folder(grid) / "comparison.csv"
    # A paper pipeline's table names no runs.
    if grid == "default" and table.exists() and names_lost_runs(table, store.finished_runs(grid)):
        print(f"{table} names runs that are gone; python -m stages.compare {params_path}")
        return subprocess.run([sys.executable, "-m", "stages.compare", params_path]).returncode
    return 0


def names_lost_runs(table: Path, run_ids: dict[str, str]) -> bool:
    try:
        with table.open(encoding="utf-8", newline="") as file:
            named = {Cell.of_row(row).key: row["mlflow_run_id"] for row in csv.DictReader(file)}
    except (KeyError, ValueError, TypeError):  # a broken table
        return True
    return any(run_ids.get(cell, run_id) != run_id for cell, run_id in named.items())


if __name__ == "__main__":
    run(main)
