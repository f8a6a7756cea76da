"""Kill real runs at seeded random moments, and count: `python tests/faults.py --kills 50 --seed 0`.

A kill while DVC writes its list of files in use leaves half of it, which DVC cannot read: as README says, the list is
removed and the command repeated; the report counts that.

A miniature grid runs once without trouble and once with its whole process group killed again and again, by SIGKILL,
SIGTERM or Ctrl-C, at moments drawn uniformly; after the last kill it runs to its end. Both must come to the same bits.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from mlflow import MlflowClient
from workspace import Workspace

SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
# Half a minute of training in two cells, with a state after every step: kills hit steps, writes and hand-overs alike.
LONGER = {"epochs": 6, "checkpoint": {"minutes": 1e-6}}
KEPT = ("pretrain/backbone.safetensors", "pretrain/projector.safetensors", "pretrain/history.csv")
KEPT += ("pretrain/metrics.json", "probe/metrics.json", "probe/health.json")
FILES_IN_USE = ".dvc/tmp/rwlock"


def make(folder: Path) -> Workspace:
    folder.mkdir(parents=True)
    made = Workspace(folder)
    made.change_params({"pretrain": LONGER})
    # Only what pretraining and probing lead to; the stages that read their results keep no state.
    made.keep_stages()
    return made


def mend(workspace: Workspace) -> bool:
    """Remove DVC's list of files in use if a kill tore it; say whether it did."""
    path = workspace.root / FILES_IN_USE
    try:
        json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return False
    except json.JSONDecodeError:
        path.unlink()
        return True
    return False


def run_and_kill(workspace: Workspace, after_s: float, signum: int) -> tuple[bool, str]:
    """Run `dvc repro`, send a signal to all of it after a while, and say whether that hit, and which stage."""
    log = workspace.root / "repro.log"
    with log.open("w", encoding="utf-8") as file:
        repro = subprocess.Popen(
            ["dvc", "repro"], cwd=workspace.root, env=workspace.environment, stdout=file, stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip
        try:
            code = repro.wait(timeout=after_s)
            if code != 0:
                raise AssertionError(f"dvc repro failed by itself:\n{log.read_text(encoding='utf-8')}")
            return False, ""
        except subprocess.TimeoutExpired:
            os.killpg(repro.pid, signum)
        wait_for_group(repro)
    stages = [line.split("'")[1] for line in log.read_text(encoding="utf-8").splitlines() if line.startswith("Running")]
    return True, stages[-1].partition("@")[0] if stages else "dvc"


def wait_for_group(repro: subprocess.Popen) -> None:
    """Wait until no process of the group is left: a stage that was asked to end still keeps its state."""
    deadline = time.monotonic() + 60
    while True:
        repro.poll()
        try:
            os.killpg(repro.pid, 0)
        except ProcessLookupError:
            return
        if time.monotonic() > deadline:
            os.killpg(repro.pid, signal.SIGKILL)
        time.sleep(0.02)


def results(workspace: Workspace) -> dict[str, object]:
    """Return every byte that must not depend on kills."""
    cells = sorted(path.parent for path in workspace.root.glob("runs/default/*/pretrain") if path.is_dir())
    found: dict[str, object] = {f"{cell.name}/{name}": (cell / name).read_bytes() for cell in cells for name in KEPT}
    with (workspace.root / "reports/comparison.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return found | {"comparison.csv": [{k: v for k, v in row.items() if k != "mlflow_run_id"} for row in rows]}


def check_runs(workspace: Workspace) -> None:
    """One FINISHED run a cell, and no metric has two points at one step."""
    client = MlflowClient(f"sqlite:///{workspace.root}/mlflow.db")
    runs = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
    cells = Counter(run.data.tags["cell"] for run in runs)
    rows = results(workspace)["comparison.csv"]
    assert len(cells) == len(rows) and set(cells.values()) == {1}, cells
    for run in runs:
        assert run.info.status == "FINISHED", run.info
        for name in run.data.metrics:
            steps = [point.step for point in client.get_metric_history(run.info.run_id, name)]
            assert len(steps) == len(set(steps)), (name, steps)
    assert "0 disagreements" in workspace.run("python", "-m", "stages.verify")


def start_afresh(workspace: Workspace) -> None:
    """Forget all results and states, but not the data."""
    workspace.run("rm", "-rf", "runs", "dvc.lock", ".scratch/checkpoints", ".dvc/cache/runs", "mlflow.db")
    workspace.run("bash", "-c", "rm -f mlflow.db*")


def kill_many(folder: Path, *, kills: int, seed: int) -> str:
    """Compare a grid that is killed so many times with one that is not; return a report, or raise AssertionError."""
    whole, hurt = make(folder / "whole"), make(folder / "hurt")
    whole.repro("download@digits")
    started = time.monotonic()
    whole.repro()
    whole_s = time.monotonic() - started
    want = results(whole)

    draws, hits, signals, finished, spent_s, torn = random.Random(seed), Counter(), Counter(), 0, 0.0, 0
    while hits.total() < kills:
        signum, started = draws.choice(SIGNALS), time.monotonic()
        hit, stage = run_and_kill(hurt, draws.uniform(0.5, 0.45 * whole_s), signum)
        spent_s += time.monotonic() - started
        torn += mend(hurt)
        if hit:
            hits[stage] += 1
            signals[signal.Signals(signum).name] += 1
            print(f"{hits.total():3d}  {signal.Signals(signum).name:8s} {stage}", flush=True)
        else:
            finished += 1
            assert results(hurt) == want
            check_runs(hurt)
            start_afresh(hurt)
    started = time.monotonic()
    hurt.repro()
    spent_s += time.monotonic() - started
    assert results(hurt) == want
    assert not list((hurt.root / ".scratch/checkpoints").rglob("*.pt")), "a finished cell keeps no state"
    check_runs(hurt)
    lost_s = (spent_s - (finished + 1) * whole_s) / kills
    return (
        f"{kills} kills ({counted(signals)}) while these ran: {counted(hits)}; {finished + 1} completions, each with "
        "the bits of the uninterrupted run, one FINISHED run a cell and no duplicate point. Uninterrupted "
        f"{whole_s:.0f} s; {lost_s:.1f} s lost per kill, start-up included; "
        f"DVC's list of files in use was torn {torn} times"
    )


def counted(counter: Counter) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(counter.items()))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        sys.exit(print(kill_many(Path(folder), kills=options.kills, seed=options.seed)))
