"""Report figures 6 and 16: `python -m stages.figure6_report [paper/figure6/params.yaml [MEASURED]]`."""

from __future__ import annotations

from pathlib import Path

from pipeline.experiments.repair_report import report
from pipeline.experiments.synthetic_report import write_report
from pipeline.runtime.files import read_json
from pipeline.runtime.project import REPORTS
from stages import run


def main(params_path: str = "paper/figure6/params.yaml", measured: str = "runs/figure6/measured.json") -> None:
    write_report(REPORTS, params_path, report(read_json(Path(measured))), "cpu")


if __name__ == "__main__":
    run(main)
