"""Run the descents of figure 7: `python -m stages.figure7 [paper/figure7/params.yaml [OUT]]`."""

from __future__ import annotations

from pathlib import Path

from pipeline.catalogue.validation import read_section
from pipeline.experiments.descent import measure_all
from pipeline.experiments.resampling import Settings, measure, runs_of
from pipeline.runtime.files import write_json
from stages import run


def main(params_path: str = "paper/figure7/params.yaml", out: str = "runs/figure7/measured.json") -> None:
    settings = read_section(params_path, "resampling", Settings)
    write_json(Path(out), measure_all(measure, runs_of(settings), settings))


if __name__ == "__main__":
    run(main)
