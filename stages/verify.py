"""Check that tables, files, dvc.lock and MLflow agree: `python -m stages.verify [params.yaml]`.

Exits with 1 and names what differs.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from pipeline.cells import Cell
from pipeline.listing import open_listing
from pipeline.lockfile import locked_outputs, unlocked
from pipeline.params import reports_folder
from pipeline.results import ResultError, cell_record, table_disagreements
from pipeline.tracking import Store
from stages import run

TRAINED = ("pretrain/backbone.safetensors", "pretrain/history.csv", "pretrain/metrics.json")


def main(params_path: str = "params.yaml") -> int:
    listing, lock = open_listing(params_path), Path(params_path).with_name("dvc.lock")
    grid, cells = listing.grid, listing.cells
    table = reports_folder(grid) / "comparison.csv"
    rows = {}
    if table.exists():
        with table.open(encoding="utf-8", newline="") as file:
            rows = {Cell.of_row(row).key: row for row in csv.DictReader(file)}
    store, locked = Store(), locked_outputs(lock)
    problems = []
    for cell in cells:
        outputs = [*TRAINED] * (cell in listing.trained) + ["probe/metrics.json"]
        found = [*unlocked([cell.folder / name for name in outputs], locked, lock), *check_runs(cell, store)]
        if grid == "default":  # a paper pipeline's table names no runs
            found += check_row(cell, rows.get(cell.key), store)
        problems += [f"{cell.key}: {problem}" for problem in found]
    print("".join(f"{problem}\n" for problem in problems), end="", file=sys.stderr)
    print(f"{len(cells)} cells of grid {grid!r}: {len(problems)} disagreements")
    return 1 if problems else 0


def check_runs(cell: Cell, store: Store) -> Iterator[str]:
    try:
        yield from store.disagreements(cell_record(cell.configs))
    except ResultError as error:
        yield str(error)


def check_row(cell: Cell, row: dict | None, store: Store) -> Iterator[str]:
    with suppress(ResultError):  # named by check_runs
        run_ids = [run.info.run_id for run in store.runs(cell.grid, cell.key)]
        yield from table_disagreements(cell_record(cell.configs), row, run_ids)


if __name__ == "__main__":
    run(main)
