"""Score test images by JEPA-SCORE and its baselines: `python -m stages.score TRAINED SCORED [params.yaml]`.

TRAINED is a data set of the grid, for the run that `stages.diagnose` picked for it, or a frozen model of the catalogue,
which is compared with the training images of the first set in density.sets. SCORED is a data set of the grid, one of
density.sets, or `foreign`: all of density.sets that are not in the grid, packed by `stages.foreign`.
"""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path

from pipeline.density.encoders import (
    absent_sets,
    find_encoder,
    scored_sets,
    scores_path,
    scoring_command,
    set_folder,
)
from pipeline.density.methods import scores_text
from pipeline.runtime.absent import NOTE, NotAskedFor, attempt
from pipeline.runtime.errors import UserError, did_you_mean
from pipeline.runtime.files import write_text
from pipeline.schema.resolved_analyses import ScoreRun
from stages import run


def main(trained: str, scored: str, params_path: str = "params.yaml") -> None:
    settings = ScoreRun.of_grid(params_path, "score")
    known = [*settings.datasets, *settings.execution.models]
    if trained not in known:
        raise UserError(f"unknown encoder {trained!r}{did_you_mean(trained, known)}; take a set of the grid or a model")
    foreign = [name for name in settings.density.sets if name not in settings.datasets]
    if scored != "foreign":
        if scored not in (sets := [*settings.datasets, *foreign]):
            raise UserError(f"unknown data set {scored!r}{did_you_mean(scored, sets)}; add it to density.sets")
        score(trained, scored, settings)
        return
    folder = scores_path(trained, "foreign", settings).parent
    shutil.rmtree(folder, ignore_errors=True)
    if not foreign:
        write_text(folder / NOTE, "not asked for: density.sets names no set that is not in the grid\n")
    for name in foreign:
        score(trained, name, settings)


def score(trained: str, scored: str, settings: ScoreRun) -> None:
    out = scores_path(trained, scored, settings)
    work, command = partial(_score, trained, scored, settings, out), scoring_command(trained, scored, settings)
    attempt(f"scores of {scored} by {trained}", out, work, command=command)


def _score(trained: str, scored: str, settings: ScoreRun, out: Path) -> None:
    if scored not in scored_sets(trained, settings):
        raise NotAskedFor(f"density.sets does not name {scored}")
    if why := absent_sets().get(scored):
        raise UserError(f"the set is not there: {why}")
    encoder = find_encoder(trained, settings)
    from pipeline.density.scores import Reading, score_images  # torch: seconds, only for what is asked for

    folders = (set_folder(name, settings) for name in (encoder.home, scored))
    rows, notes = score_images(encoder, *folders, settings.density, Reading.of(settings, encoder))
    write_text(out, scores_text(rows, notes))
    print(f"{len(rows)} test images of {scored} scored by {encoder.cell or encoder.name}: {out}")


if __name__ == "__main__":
    run(main)
