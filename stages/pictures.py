"""What the runs picked for a data set see: `python -m stages.pictures DATASET [params.yaml]`.

Writes PNG files and facts.json into reports/pictures/DATASET; the PNG files become artifacts of the MLflow runs.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from pipeline import tracking
from pipeline.errors import UserError
from pipeline.files import write_atomically, write_json
from pipeline.gallery.exhibit import Exhibit, exhibits
from pipeline.gallery.facts import FACTS, shares
from pipeline.gallery.picks import picked_runs
from pipeline.listing import open_listing
from pipeline.params import reports_folder
from stages import run


def main(dataset: str, params_path: str = "params.yaml") -> None:
    listing = open_listing(params_path)
    settings, out = listing.params.pictures, reports_folder(listing.grid) / "pictures" / dataset
    made = exhibits(picked_runs(listing, dataset), settings)
    shutil.rmtree(out, ignore_errors=True)
    for name, exhibit in made.items():
        for file, png in exhibit.files.items():
            write_atomically(out / file, lambda into, png=png: into.write(png))
        print(f"{dataset}, {name}: nearest training images of the right class: {shares(exhibit.facts)}")
    facts = {name: exhibit.facts for name, exhibit in made.items()}
    write_json(out / FACTS, {"dataset": dataset, "settings": settings.model_dump(), "backbones": facts})
    attach(listing.grid, made, out)


def attach(grid: str, made: dict[str, Exhibit], out: Path) -> None:
    """Put the pictures among the artifacts of their runs; trouble of the store costs no picture."""
    try:
        store = tracking.Store()
        for exhibit in made.values():
            cell = exhibit.facts["cell"]
            if not store.attach(grid, cell, [out / file for file in exhibit.files], "pictures"):
                raise UserError(f"{cell} has no run; `python -m stages.sync` writes it")
    except Exception as error:  # locked, read-only or broken store
        print(f"warning: no artifacts in MLflow: {type(error).__name__}: {error}", file=sys.stderr)


if __name__ == "__main__":
    run(main)
