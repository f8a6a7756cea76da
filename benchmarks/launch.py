"""What the launcher saves and what it costs: python -m benchmarks.launch [--cells N] [--sleepers N] [--seconds S]

Two small DVC repositories are made in a temporary folder, one stage a cell:

- cells that sleep, so that two cores show what many would: `dvc repro`, one after the other, against tasks on a Ray
  cluster of two nodes that share the folder, recorded by `dvc commit`. Bar: 1.6 times as fast.
- trivial cells: two processes at once, recorded, beside `dvc repro`. What a cell costs, start and end included.
  Bar: less than 2 s.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.measure import write_report
from pipeline.launch.engines import Local, OnRay, Options
from pipeline.launch.recording import DVC, Plan, Records, changed
from pipeline.launch.runner import Runner
from pipeline.launch.task_graph import Graph, Task

ROOT = Path(__file__).parents[1]
BAR_SPEEDUP, BAR_S = 1.6, 2.0
SLOTS = 2
WORK = "import time, pathlib; time.sleep({seconds}); out = pathlib.Path('out/{name}'); out.mkdir(parents=True); "
WORK += "(out / 'made').write_text('{name}')"
PIPELINE = """\
stages:
  probe:
    foreach: [{cells}]
    do:
      cmd: {python} -c "{work}"
      deps:
        - seed.txt
      outs:
        - out/${{item}}
"""


def call(folder: Path, *command: str) -> str:
    """Run a command there, and return what it printed; its failure ends the benchmark."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)} exited with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


def repository(folder: Path, names: list[str], seconds: float) -> Graph:
    """Make a DVC repository; return its cells as the launcher's tasks."""
    folder.mkdir()
    work = WORK.format(seconds=seconds, name="${item}")
    text = PIPELINE.format(cells=", ".join(names), python=sys.executable, work=work)
    (folder / "dvc.yaml").write_text(text, encoding="utf-8")
    (folder / "seed.txt").write_text("seed\n", encoding="utf-8")
    (folder / ".gitignore").write_text("/out/\n/.scratch/\n", encoding="utf-8")
    call(folder, "git", "init", "--quiet")
    call(folder, *DVC, "init", "--quiet")
    call(folder, *DVC, "config", "core.analytics", "false")
    tasks = {}
    for name in names:
        command = "-c", WORK.format(seconds=seconds, name=name)
        out = Path("out", name)
        tasks[f"probe@{name}"] = Task(f"probe@{name}", command, program="check", settings=Path("seed.txt"), out=out)
    return Graph("dvc.yaml", ("dvc.yaml",), tasks)


def timed(work: Callable[[Graph], object], cells: int, seconds: float) -> float:
    """Seconds of work in a fresh repository, to the moment when DVC has nothing to do."""
    names = [f"c{index:04d}" for index in range(cells)]
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "repository"
        graph = repository(folder, names, seconds)
        os.chdir(folder)
        started = time.perf_counter()
        work(graph)
        took = time.perf_counter() - started
        assert not changed(["dvc.yaml"])
        assert sorted(path.read_text(encoding="utf-8") for path in folder.glob("out/*/made")) == names
        os.chdir(ROOT)
    return took


def serial(_: Graph) -> None:
    call(Path.cwd(), *DVC, "repro", "--quiet")


def launched(open_engine: Callable[[], Local | OnRay]) -> Callable[[Graph], None]:
    """What `python -m stages.launch` does with the tasks of cells."""

    def work(graph: Graph) -> None:
        plan = Plan([graph.tasks[stage] for stage in changed(["dvc.yaml"])], [], [])
        records = Records(graph, plan)
        report = Runner(plan, open_engine(), Local(1, {}), changed, records.enter_some, retries=0).run()
        records.enter()
        report.reject_others(records.stages)
        assert len(report.done) == len(graph.tasks), str(report)

    return work


@contextmanager
def two_nodes() -> Iterator[str]:
    """Start a Ray cluster of two nodes of one core; yield its address."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    import ray
    from ray.cluster_utils import Cluster

    cluster = Cluster()
    for _ in range(SLOTS):
        cluster.add_node(num_cpus=1, include_dashboard=False)
    try:
        yield cluster.address
    finally:
        ray.shutdown()
        cluster.shutdown()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=400, help="trivial ones")
    parser.add_argument("--sleepers", type=int, default=12, help="cells that sleep")
    parser.add_argument("--seconds", type=float, default=20.0, help="how long each of them sleeps")
    args = parser.parse_args()
    alone = timed(serial, args.sleepers, args.seconds)
    with two_nodes() as address:
        nodes = timed(launched(lambda: OnRay(Options("ray", address, gpus_per_cell=0))), args.sleepers, args.seconds)
    faster = alone / nodes
    print(f"{args.sleepers} cells of {args.seconds:g} s: dvc repro {alone:.1f} s, Ray {nodes:.1f} s, x {faster:.2f}")
    plain = timed(serial, args.cells, 0)
    local = timed(launched(lambda: Local(SLOTS, {})), args.cells, 0)
    print(f"{args.cells} cells: dvc repro {plain:.1f} s, launcher {local:.1f} s")
    sleeping = [["`dvc repro`", f"{alone:.1f}", "1"], ["Ray, two nodes", f"{nodes:.1f}", f"{faster:.2f}"]]
    costs = [["`dvc repro`", f"{plain:.1f}", f"{plain / args.cells:.2f}"]]
    costs += [["launcher", f"{local:.1f}", f"{local / args.cells:.2f}"]]
    tables = [
        ([f"{args.sleepers} cells that sleep {args.seconds:g} s", "s", "times as fast"], sleeping),
        ([f"{args.cells} trivial cells, {SLOTS} at once by the launcher", "s", "s a cell"], costs),
    ]
    notes = ["One run, each part in a fresh repository; start and end of everything included."]
    notes += [f"Bars: {BAR_SPEEDUP} times as fast; the launcher less than {BAR_S:g} s a cell."]
    packages = ("dvc", "ray", "submitit")
    print(write_report("launch", "The launcher", notes, tables, packages=packages, threads=1, device="cpu"))
    return int(faster < BAR_SPEEDUP or local / args.cells >= BAR_S)


if __name__ == "__main__":
    sys.exit(main())
