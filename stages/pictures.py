"""What the runs picked for a data set see: `python -m stages.pictures DATASET [params.yaml]`.

Writes PNG files and facts.json into reports/pictures/DATASET; the PNG files become artifacts of the MLflow runs.
"""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path

from pipeline.pictures.captions import FACTS, shares
from pipeline.pictures.encoders_shown import picked_runs
from pipeline.pictures.exhibit import exhibits
from pipeline.runtime.absent import again, attempt
from pipeline.runtime.errors import UserError, did_you_mean
from pipeline.runtime.files import write_atomically, write_json
from pipeline.runtime.project import grid_name, reports_folder
from pipeline.schema.resolved_analyses import PicturesRun
from pipeline.tracking.live_run import attach_or_warn
from stages import run


def main(dataset: str, params_path: str = "params.yaml") -> None:
    settings = PicturesRun.of_grid(params_path, "pictures")
    if dataset not in (names := settings.datasets):
        raise UserError(f"unknown data set {dataset!r}{did_you_mean(dataset, names)}; it must be in grid.datasets")
    out = reports_folder(grid_name(params_path)) / "pictures" / dataset
    command = again(f"pictures@{dataset}", params_path)
    attempt(f"pictures of {dataset}", out, partial(draw, settings, dataset, out), command=command)


def draw(settings: PicturesRun, dataset: str, out: Path) -> None:
    made = exhibits(picked_runs(settings, dataset), settings.pictures)
    shutil.rmtree(out, ignore_errors=True)
    for name, exhibit in made.items():
        for file, png in exhibit.files.items():
            write_atomically(out / file, lambda into, png=png: into.write(png))
        print(f"{dataset}, {name}: nearest training images of the right class: {shares(exhibit.facts)}")
    facts = {name: exhibit.facts for name, exhibit in made.items()}
    write_json(out / FACTS, {"dataset": dataset, "settings": settings.pictures.model_dump(), "backbones": facts})
    files = {exhibit.facts["cell"]: [out / file for file in exhibit.files] for exhibit in made.values()}
    attach_or_warn(grid_name(settings.params_path), files, "pictures")


if __name__ == "__main__":
    run(main)
