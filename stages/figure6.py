"""Run the descents of figures 6 and 16: `python -m stages.figure6 [paper/figure6/params.yaml [OUT]]`."""

from __future__ import annotations

import time
from dataclasses import asdict
from functools import partial
from pathlib import Path

from pipeline.experiments import repair
from pipeline.experiments.descent import origin, run_all
from pipeline.experiments.settings import read_settings
from pipeline.runtime.files import write_json
from stages import run


def main(params_path: str = "paper/figure6/params.yaml", out: str = "runs/figure6/measured.json") -> None:
    settings = read_settings(params_path, "repair", repair.Settings)
    began, runs, rows = time.perf_counter(), repair.runs_of(settings), []
    for row in run_all(partial(repair.measure, settings=settings), runs):
        rows.append(row)
        print(f"{len(rows)} of {len(runs)} done", flush=True)
    measured = {
        "settings": asdict(settings),
        "origin": origin(time.perf_counter() - began),
        "rows": rows,
        "reference": repair.gaussian_reference(settings),
    }
    write_json(Path(out), measured)


if __name__ == "__main__":
    run(main)
