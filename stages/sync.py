"""Bring MLflow to what is on disk: `python -m stages.sync [params.yaml]`; running it again changes nothing."""

from __future__ import annotations

import sys

from pipeline.listing import open_listing
from pipeline.results import ResultError, cell_record
from pipeline.tracking import Store
from stages import run


def main(params_path: str = "params.yaml") -> int:
    store, missing = Store(), []
    cells = open_listing(params_path).cells
    for cell in cells:
        try:
            record = cell_record(cell.configs)
        except ResultError as error:
            missing.append(f"{cell.key}: {error}")
            continue
        mended = list(store.disagreements(record))
        if mended:
            run_id = store.publish(record)
            print(f"{cell.key}: run {run_id} written ({len(mended)} differences, first: {mended[0]})")
    print(f"MLflow holds {len(cells) - len(missing)} of {len(cells)} cells; {len(missing)} have no results yet")
    print("".join(f"missing: {line}\n" for line in missing), end="", file=sys.stderr)
    return 0


if __name__ == "__main__":
    run(main)
