"""Run many cells of a pipeline at once: `python -m stages.launch [dvc.yaml] --engine ray|slurm|local ...`.

One task a cell, in the order of DVC's graph; what is up to date is left alone. Goes on past cells that fail and names
them at the end, with exit status 1; else a plain `dvc repro` must find nothing to do. Logs: .scratch/launch/.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

from pipeline.launch.engines import open_engine
from pipeline.launch.local import Here, Homeward
from pipeline.launch.remote import check_remote
from pipeline.launch.running import Running
from pipeline.launch.tasks import plan, read_graph
from pipeline.settings.params import read_sections
from stages import run

UP_TO_DATE = "Data and pipelines are up to date."
WORKDIR = "~/.cache/lejepa-benchmark"


def options(arguments: tuple[str, ...]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m stages.launch", description=__doc__.partition("\n\n")[2])
    parser.add_argument("pipeline", nargs="?", default="dvc.yaml")
    parser.add_argument("--engine", required=True, choices=["ray", "slurm", "local"], help="local: without GPUs")
    parser.add_argument("--address", help="Ray cluster, `auto` on one of its machines; default: one is started here")
    parser.add_argument(
        "--gpus-per-cell", type=float, metavar="G", help="default: 1 on Ray where there are any, else 0"
    )
    parser.add_argument("--cpus-per-cell", type=int, default=1, metavar="C", help="default: 1; also OMP_NUM_THREADS")
    parser.add_argument("--retries", type=int, default=3, metavar="N", help="of a cell whose machine died; default: 3")
    parser.add_argument("--remote", metavar="NAME", help="Ray's nodes share no disk, but this DVC remote")
    parser.add_argument("--workdir", default=WORKDIR, help=f"with --remote: a node's clones; default: {WORKDIR}")
    parser.add_argument("--slurm", nargs="+", default=[], metavar="KEY=VALUE", help="of sbatch: partition=gpu time=60")
    return parser.parse_args(arguments)


def main(*arguments: str) -> int:
    asked = options(arguments)
    exchange = asked.remote is not None
    if exchange:
        check_remote(asked.remote, asked.engine)
    tasks = plan(read_graph(asked.pipeline), exchange=exchange)
    here = sum(task.here for task in tasks)
    print(f"{asked.pipeline}: {len(tasks)} tasks, {here} of them here; the others by {asked.engine}", flush=True)
    if tasks:
        resources = {"gpus": asked.gpus_per_cell, "cpus": asked.cpus_per_cell, "retries": asked.retries}
        where = {"address": asked.address, "workdir": asked.workdir if exchange else None, "slurm": asked.slurm}
        away = open_engine(asked.engine, **where, **resources)
        here = Here(max(2, (os.cpu_count() or 1) // asked.cpus_per_cell), ("--pull", "--push") if exchange else ())
        try:
            report = Running(tasks, away, here, Homeward() if exchange else None).run()
        finally:
            away.close()
        print(report, flush=True)
        if report.failed:
            return 1
    params = Path(asked.pipeline).with_name("params.yaml")
    if exchange and params.exists() and "grid" in read_sections(params):  # MLflow of the nodes stayed there
        subprocess.run([sys.executable, "-m", "stages.sync", str(params)], check=True)
    print(f"dvc repro {asked.pipeline}: looks whether anything is left", file=sys.stderr, flush=True)
    done = subprocess.run([sys.executable, "-m", "dvc", "repro", asked.pipeline], stdout=subprocess.PIPE, text=True)
    last = "".join(done.stdout.strip().splitlines()[-1:])
    print(f"dvc repro {asked.pipeline}: {last}")
    return done.returncode or int(last != UP_TO_DATE)


if __name__ == "__main__":
    run(main)
