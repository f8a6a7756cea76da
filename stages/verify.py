"""Check that tables, files, dvc.lock and MLflow agree: `python -m stages.verify [params.yaml]`.

Exits with 1 and names what differs: the file, both values, and what mends it.
"""

from __future__ import annotations

import sys
from pathlib import Path

from pipeline.runtime.bars import DELAY_S, bar
from pipeline.runtime.errors import ResultError
from pipeline.runtime.project import reports_folder, repro_command, shown
from pipeline.settings.grid import Listing, open_listing
from pipeline.tracking.live_run import open_store
from pipeline.tracking.lockfile import lock_check
from pipeline.tracking.record import DIAGNOSIS, cell_record, comparison_rows, recorded_picks, table_disagreements
from pipeline.tracking.seed_means import seed_means
from stages import run


def main(params_path: str = "params.yaml") -> int:
    listing, command = open_listing(params_path), repro_command(params_path)
    as_recorded = lock_check(Path(params_path).with_name("dvc.lock"), command)
    table, sync = read_table(listing), f"; run: python -m stages.sync {shown(params_path)}"
    picks = recorded_picks(DIAGNOSIS / listing.grid / "picks")
    trained, problems, cells, store = set(listing.trained), [], listing.cells, open_store()
    records = []
    for cell in bar("cells verified", len(cells), unit="cell", delay_s=DELAY_S, iterable=cells):
        outputs = ["pretrain", "probe"] if cell in trained else ["probe"]
        found = list(as_recorded(cell.folder / name for name in outputs))
        row = None if table is None else table.pop(cell.key, None)
        try:
            record = cell_record(cell.configs, picks)
            records.append(record)
            found += [problem + sync for problem in store.disagreements(record)]
            if table is not None:
                run_ids = [run.info.run_id for run in store.runs(cell.grid, cell.key)]
                found += table_disagreements(record, row, run_ids)
        except ResultError as error:
            found.append(str(error))
        problems += [f"{cell.key}: {problem}" for problem in found]
    for mean in seed_means(records):
        problems += [f"{mean.cell}: {problem}{sync}" for problem in store.disagreements(mean)]
    stale = "has a row in comparison.csv but is no cell of the grid; run: python -m stages.compare"
    problems += [f"{key}: {stale}" for key in table or ()]
    print("".join(f"{problem}\n" for problem in problems), end="", file=sys.stderr)
    print(f"{len(listing.cells)} cells of grid {listing.grid!r}: {len(problems)} disagreements")
    return 1 if problems else 0


def read_table(listing: Listing) -> dict[str, dict[str, str]] | None:
    """Return {cell: row} of comparison.csv; None for a paper pipeline, whose table names no runs."""
    path = reports_folder(listing.grid) / "comparison.csv"
    if listing.grid != "default":
        return None
    return comparison_rows(path) if path.exists() else {}


if __name__ == "__main__":
    run(main)
