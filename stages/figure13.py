"""Patch features as colours and attention as a mask: `python -m stages.figure13 paper/figure13/params.yaml`.

For another backbone: a folder with a params.yaml of its own that names its weights; the report has the folder's name.
"""

from __future__ import annotations

from pathlib import Path

from pipeline.catalogue.validation import read_section
from pipeline.core.distributed.devices import choose_device
from pipeline.experiments.synthetic_report import write_report
from pipeline.experiments.visuals_measure import Settings, measure
from pipeline.experiments.visuals_report import report
from pipeline.pictures.sheet import sheet
from pipeline.runtime.files import write_atomically
from pipeline.runtime.project import REPORTS
from stages import run


def main(params_path: str = "paper/figure13/params.yaml") -> None:
    settings = read_section(params_path, "visuals", Settings)
    device = choose_device(settings.device, exact=True)
    found = measure(settings, device)
    root, name = REPORTS, Path(params_path).parent.name
    png = sheet(list(zip(*found.columns.values(), strict=True)), above=list(found.columns))
    write_atomically(root / "plots" / f"{name}.png", lambda file: file.write(png))
    write_report(root, params_path, report(found, settings, name), str(device))


if __name__ == "__main__":
    run(main)
