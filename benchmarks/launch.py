"""What the launcher saves and what it costs: python -m benchmarks.launch [--cells N] [--sleepers N] [--seconds S]

Two small DVC repositories are made in a temporary folder, one stage a cell:

- cells that sleep, so that two cores show what many would: `dvc repro`, one after the other, against the launcher on a
  Ray cluster of two nodes that share the folder (benchmarks.nodes: that share nothing). Bar: 1.6 times as fast.
- trivial cells: the launcher with `--engine local` against the same `dvc repro --single-item` commands by xargs, two at
  once. What it adds, start and end included, per cell. Bar: less than 2 s.
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
from statistics import median

from benchmarks.measure import write_report

ROOT = Path(__file__).parents[1]
BAR_SPEEDUP, BAR_S = 1.6, 2.0
SLOTS = 2
PIPELINE = """\
stages:
  prepare:
    cmd: cp seed.txt prepared.txt
    deps:
      - seed.txt
    outs:
      - prepared.txt
  cell:
    foreach: [{cells}]
    do:
      cmd: sleep {seconds}; mkdir -p out; echo ${{item}} > out/${{item}}.txt
      deps:
        - prepared.txt
      outs:
        - out/${{item}}.txt
"""


def environment() -> dict[str, str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def call(folder: Path, *command: str) -> str:
    """Run a command there, and return what it printed; its failure ends the benchmark."""
    done = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)} exited with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


def repository(folder: Path, cells: int, seconds: float) -> list[str]:
    """Make a DVC repository; return the addresses of its cells."""
    names = [f"c{index:04d}" for index in range(cells)]
    folder.mkdir()
    (folder / "dvc.yaml").write_text(PIPELINE.format(cells=", ".join(names), seconds=seconds), encoding="utf-8")
    (folder / "seed.txt").write_text("seed\n", encoding="utf-8")
    (folder / ".gitignore").write_text("/out/\n/prepared.txt\n/.scratch/\n", encoding="utf-8")
    for command in ("git init --quiet", "dvc init --quiet", "dvc config core.analytics false"):
        call(folder, *command.split())
    call(folder, "dvc", "remote", "add", "--default", "shared", str(folder.with_name("remote")))
    call(folder, "git", "add", "--all")
    call(folder, "git", "-c", "user.name=benchmark", "-c", "user.email=benchmark@localhost", "commit", "-qm", "start")
    return [f"cell@{name}" for name in names]


def timed(work: Callable[[Path], object], cells: int, seconds: float, rounds: int) -> float:
    """Median seconds of work in fresh repositories."""
    took = []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place) / "repository"
            repository(folder, cells, seconds)
            started = time.perf_counter()
            work(folder)
            took.append(time.perf_counter() - started)
            written = sorted(path.read_text(encoding="utf-8") for path in (folder / "out").iterdir())
            assert written == [f"c{index:04d}\n" for index in range(cells)]
    return median(took)


def launch(*options: str) -> Callable[[Path], str]:
    """The launcher; {} in an option becomes a name that no other round has, lest a node's cache knows the results."""
    command = [sys.executable, "-m", "stages.launch"]
    return lambda folder: call(folder, *command, *(option.replace("{}", folder.parent.name) for option in options))


def bare(folder: Path) -> None:
    """The launcher's DVC commands without the launcher: every cell by its own process, as many at once."""
    one = f"{sys.executable} -m dvc --wait-for-lock repro --quiet --single-item cell@{{}}"
    retry = f"until {one}; do sleep 0.5; done"
    listed = "seq -f 'c%04g' 0 $(($(grep -o 'c[0-9]\\{4\\}' dvc.yaml | wc -l) - 1))"
    call(folder, sys.executable, "-m", "dvc", "repro", "--quiet", "--single-item", "prepare")
    call(folder, "bash", "-c", f"{listed} | xargs -P {SLOTS} -I {{}} bash -c '{retry}'")
    call(folder, sys.executable, "-m", "dvc", "repro")  # the launcher ends with it


@contextmanager
def two_nodes() -> Iterator[str]:
    """Start a Ray cluster of two nodes with a folder each; yield its address."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    from ray.cluster_utils import Cluster

    cluster = Cluster()
    with tempfile.TemporaryDirectory() as place:
        for node in range(SLOTS):
            env = {"PYTHONPATH": str(ROOT), "NODE_HOME": f"{place}/{node}"}
            cluster.add_node(num_cpus=1, include_dashboard=False, env_vars=env)
        try:
            yield cluster.address
        finally:
            cluster.shutdown()


def asleep(args: argparse.Namespace, *options: str) -> tuple[float, tuple[list[str], list[list[str]]]]:
    """Return how many times as fast as `dvc repro` the launcher is on two nodes with these options, and a table."""
    serial = timed(lambda folder: call(folder, "dvc", "repro"), args.sleepers, args.seconds, args.rounds)
    with two_nodes() as address:
        work = launch("--engine", "ray", "--address", address, *options)
        nodes = timed(work, args.sleepers, args.seconds, args.rounds)
    faster = serial / nodes
    print(f"{args.sleepers} cells of {args.seconds:g} s: dvc repro {serial:.1f} s, Ray {nodes:.1f} s, x {faster:.2f}")
    head = [f"{args.sleepers} cells that sleep {args.seconds:g} s", "s", "times as fast"]
    return faster, (head, [["`dvc repro`", f"{serial:.1f}", "1"], ["Ray, two nodes", f"{nodes:.1f}", f"{faster:.2f}"]])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=400, help="trivial ones")
    parser.add_argument("--sleepers", type=int, default=12, help="cells that sleep")
    parser.add_argument("--seconds", type=float, default=20.0, help="how long each of them sleeps")
    parser.add_argument("--rounds", type=int, default=1)
    args = parser.parse_args()
    faster, sleeping = asleep(args)
    plain = timed(bare, args.cells, 0, args.rounds)
    local = timed(launch("--engine", "local"), args.cells, 0, args.rounds)
    added = (local - plain) / args.cells
    print(f"{args.cells} cells: bare {plain:.1f} s, launcher {local:.1f} s, {added:+.2f} s a cell")
    trivial = [["bare DVC commands", f"{plain:.1f}", ""], ["launcher", f"{local:.1f}", f"{added:+.2f}"]]
    tables = [
        sleeping,
        ([f"{args.cells} trivial cells, {SLOTS} at once", "s", "added a cell, s"], trivial),
    ]
    notes = [f"Median of {args.rounds} runs, each in a fresh repository; start and end of everything included."]
    notes += [f"Bars: {BAR_SPEEDUP} times as fast; less than {BAR_S:g} s a cell."]
    packages = ("dvc", "ray", "submitit")
    print(write_report("launch", "The launcher", notes, tables, packages=packages, threads=1, device="cpu"))
    return int(faster < BAR_SPEEDUP or added >= BAR_S)


if __name__ == "__main__":
    sys.exit(main())
