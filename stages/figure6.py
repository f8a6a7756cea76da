"""Run the descents of figures 6 and 16: `python -m stages.figure6 [paper/figure6/params.yaml [OUT]]`."""

from __future__ import annotations

from pathlib import Path

from pipeline.catalogue.validation import read_section
from pipeline.experiments.descent import measure_all
from pipeline.experiments.repair import Settings, gaussian_reference, measure, runs_of
from pipeline.runtime.files import write_json
from stages import run


def main(params_path: str = "paper/figure6/params.yaml", out: str = "runs/figure6/measured.json") -> None:
    settings = read_section(params_path, "repair", Settings)
    measured = measure_all(measure, runs_of(settings), settings)
    write_json(Path(out), {**measured, "reference": gaussian_reference(settings)})


if __name__ == "__main__":
    run(main)
