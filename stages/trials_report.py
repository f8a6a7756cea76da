"""Report a comparison of objectives: `python -m stages.trials_report PARAMS RUNS`."""

from __future__ import annotations

from pathlib import Path

from pipeline.catalogue.validation import read_section
from pipeline.core.distributed.devices import choose_device
from pipeline.experiments.synthetic_report import write_report
from pipeline.experiments.trials_report import read_trials, report
from pipeline.runtime.project import REPORTS
from pipeline.schema.parameters import Report
from pipeline.schema.trials import Trials
from stages import run


def main(params_path: str, runs: str) -> None:
    told, section = read_section(params_path, "report", Report), read_section(params_path, "trials", Trials)
    how = {"title": told.title, "reference": section.reference, "name": Path(params_path).parent.name}
    found = report(read_trials(Path(runs)), **how)
    write_report(REPORTS, params_path, found, str(choose_device(section.pretrain.device, quiet=True)))


if __name__ == "__main__":
    run(main)
