"""Run many cells of a pipeline at once: `python -m stages.launch [dvc.yaml] --engine ray|slurm|local ...`.

One task a pretraining and a probe; what is up to date is left alone. Goes on past tasks that fail and names them at the
end, with exit status 1; else `dvc repro` makes the reports. Logs: .scratch/launch/.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from pipeline.launch.engines import Local, Options, open_engine
from pipeline.launch.recording import Plan, Records, changed, dvc, make_plan
from pipeline.launch.runner import Report, Runner
from pipeline.launch.stage_program import refuse_company
from pipeline.launch.task_graph import cell_graph
from pipeline.runtime.errors import UserError
from pipeline.runtime.project import repro_command
from pipeline.settings.grid import open_listing
from pipeline.settings.params import read_sections
from stages import run


def arguments_of(arguments: tuple[str, ...]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m stages.launch", description=__doc__.partition("\n\n")[2])
    parser.add_argument("pipeline", nargs="?", default="dvc.yaml")
    parser.add_argument("--engine", required=True, choices=["ray", "slurm", "local"], help="local: without GPUs")
    parser.add_argument("--address", help="Ray cluster, `auto` on one of its machines; default: one is started here")
    parser.add_argument(
        "--gpus-per-cell", type=float, metavar="G", help="default: 1 on Ray where there are any, else 0"
    )
    parser.add_argument("--cpus-per-cell", type=int, default=1, metavar="C", help="default: 1; also OMP_NUM_THREADS")
    parser.add_argument("--retries", type=int, default=3, metavar="N", help="of a cell whose machine died; default: 3")
    parser.add_argument("--slurm", nargs="+", default=[], metavar="KEY=VALUE", help="of sbatch: partition=gpu time=60")
    return parser.parse_args(arguments)


def main(*arguments: str) -> int:
    asked = arguments_of(arguments)
    options = Options(**{name: value for name, value in vars(asked).items() if name != "pipeline"})
    if not Path(".dvc").is_dir():
        raise UserError(f"{Path.cwd()} is not the root of a DVC repository; change to the folder that holds .dvc")
    params = Path(asked.pipeline).with_name("params.yaml")
    if "grid" not in read_sections(params):
        raise UserError(f"{params} has no grid, whose cells could run at once; run: {repro_command(params)}")
    refuse_company()
    graph = cell_graph(open_listing(params))
    dvc("repro", *graph.entrance, patient=False)
    plan = make_plan(graph)
    told = f"{len(plan.stale)} to run, {len(plan.dependent)} that depend on them, {len(plan.made)} to record"
    print(f"{asked.pipeline}: {len(graph.tasks)} stages of cells; {told}", flush=True)
    records = Records(graph, plan)
    try:
        report = work(options, plan, records) if plan.stale else Report()
    finally:
        records.enter()
    report.reject_others(records.stages)
    print(report, flush=True)
    if report.failed:
        return 1
    if outdated := [stage for stage in changed(graph.files) if stage in graph.tasks]:
        told = f"{len(outdated)} recorded stages have other settings, code or inputs by now, e.g. {outdated[0]}"
        raise UserError(f"{told}; run the same command again")  # `dvc repro` would run them here, one after the other
    dvc("repro", asked.pipeline)  # the reports
    return 0


def work(options: Options, plan: Plan, records: Records) -> Report:
    here = Local(1, {})  # commands of DVC, which lock each other out
    return Runner(plan, open_engine(options), here, changed, records.enter_some, options.retries).run()


if __name__ == "__main__":
    run(main)
