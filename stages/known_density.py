"""JEPA-SCORE where the density is known: `python -m stages.known_density`."""

from __future__ import annotations

from pathlib import Path

from pipeline.experiments.known_density import Settings, measure
from pipeline.experiments.known_density_report import write_report
from stages import run


def main(folder: str = "reports/known_density") -> None:
    settings = Settings()
    write_report(Path(folder), measure(settings), settings)


if __name__ == "__main__":
    run(main)
