"""Time of SIGReg over N, S and T: `python -m stages.table6 paper/table6/params.yaml`."""

from __future__ import annotations

from pathlib import Path

from pipeline.catalogue.validation import read_section
from pipeline.core.distributed.devices import choose_device
from pipeline.experiments.sigreg_time import AXES, Settings, Size, measure, read_published
from pipeline.experiments.sigreg_time_report import report
from pipeline.experiments.synthetic_report import write_report
from pipeline.runtime.project import REPORTS
from stages import run


def main(params_path: str = "paper/table6/params.yaml") -> None:
    settings, device = read_section(params_path, "sigreg_time", Settings), choose_device("auto")
    published = read_published(Path(params_path).with_name("published.csv"))
    times = measure(map(Size._make, published[AXES].to_numpy().tolist()), settings, device)
    write_report(REPORTS, params_path, report(times, published, settings, device), str(device))


if __name__ == "__main__":
    run(main)
