"""Score test images by JEPA-SCORE and its rivals: `python -m stages.score TRAINED SCORED [params.yaml]`.

TRAINED is a data set of the grid, for the run that `stages.diagnose` picked for it, or a frozen model of the catalogue,
which is compared with the training images of the first set in density.sets. SCORED is any data set of the catalogue.
"""

from __future__ import annotations

from pipeline.devices import choose_device
from pipeline.errors import UserError
from pipeline.files import write_text
from pipeline.params import load_params
from pipeline.typicality.encoders import find_encoder, scores_path
from pipeline.typicality.methods import scores_text
from pipeline.typicality.scores import Reading, score_images
from pipeline.validation import did_you_mean
from stages import run


def main(trained: str, scored: str, params_path: str = "params.yaml") -> None:
    params = load_params(params_path)
    if scored not in params.datasets:
        raise UserError(f"unknown data set {scored!r}{did_you_mean(scored, params.datasets)}; add it under datasets:")
    encoder = find_encoder(trained, params, params_path)
    pretrain = params.pretrain
    reading = Reading(
        load_px=pretrain.load_px,
        memory_gb=pretrain.loader.memory_gb,
        num_workers=pretrain.loader.num_workers,
        batch_size=params.probe.batch_size,
        device=choose_device(pretrain.device),
    )
    rows = score_images(encoder, scored, params.density, reading)
    out = scores_path(trained, scored, params_path)
    write_text(out, scores_text(rows))
    print(f"{len(rows)} test images of {scored} scored by {encoder.cell or encoder.name}: {out}")


if __name__ == "__main__":
    run(main)
