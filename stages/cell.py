"""Bring stages up to date beside others that run: `python -m stages.cell [FLAG...] LOG STAGE...`.

What the launcher starts for a cell: `dvc repro --single-item STAGE...`, which waits for DVC's locks and ends when its
parent does. Flags exchange data with the DVC remote: dvc_commands in pipeline/launch/cell.py.
"""

from __future__ import annotations

from pathlib import Path

from pipeline.launch.cell import dvc_commands, guarded, run_commands
from stages import run


def main(*arguments: str) -> int:
    flags = [argument for argument in arguments if argument.startswith("--")]
    log, *stages = arguments[len(flags) :]
    return guarded(lambda: run_commands(dvc_commands(stages, flags), Path(log)))


if __name__ == "__main__":
    run(main)
