"""Error of the trapezoid rule: `python -m stages.figure20 paper/figure20/params.yaml`."""

from __future__ import annotations

from pipeline.catalogue.validation import read_section
from pipeline.experiments.quadrature import Settings, measure
from pipeline.experiments.quadrature_report import report
from pipeline.experiments.synthetic_report import write_report
from pipeline.runtime.project import REPORTS
from stages import run


def main(params_path: str = "paper/figure20/params.yaml") -> None:
    settings = read_section(params_path, "quadrature", Settings)
    write_report(REPORTS, params_path, report(measure(settings), settings), "cpu")


if __name__ == "__main__":
    run(main)
