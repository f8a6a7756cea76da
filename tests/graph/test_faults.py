"""Claims about runs that are hurt, on real stages in a temporary clone:

1. Killed again and again at random moments, a grid ends with the bits of one that was left alone, one MLflow run a cell
   and no duplicate point.
2. Changing how a run is executed continues it; changing what it computes starts afresh.

Damaged states and failed writes: tests/core/test_checkpoint.py, tests/graph/test_bad_inputs.py.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest
from csv_tables import csv_rows
from mlflow import MlflowClient
from one_training import COMMAND, CONFIGS, STEPS, done, execute, one_training, taken
from workspace import Workspace

pytestmark = pytest.mark.slow

# Columns of the table that no two clones share.
OF_ONE_RUN = {"mlflow_run_id", "train_s", "images_per_s", "peak_memory_mib", "commit"}


def made(folder: Path) -> Workspace:
    """A grid of half a minute that keeps a state after every step: kills hit steps, writes and hand-overs alike."""
    folder.mkdir()
    workspace = Workspace(folder)
    workspace.change_params({"pretrain": {"epochs": 6, "checkpoint": {"minutes": 1e-6}}})
    workspace.keep_stages()
    return workspace


def killed_after(workspace: Workspace, seconds: float, signum: int) -> bool:
    """Run `dvc repro`, send a signal to all of it after a while, wait for its end, and say whether that hit."""
    told = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "start_new_session": True}
    repro = subprocess.Popen(["dvc", "repro"], cwd=workspace.root, env=workspace.environment, **told)
    try:
        assert repro.wait(timeout=seconds) == 0
        return False
    except subprocess.TimeoutExpired:
        os.killpg(repro.pid, signum)
    deadline = time.monotonic() + 60
    while True:
        repro.poll()
        try:
            os.killpg(repro.pid, 0 if time.monotonic() < deadline else signal.SIGKILL)
        except ProcessLookupError:
            return True
        time.sleep(0.02)


def mend(workspace: Workspace) -> None:
    """Remove DVC's list of files in use if a kill tore it, as README says."""
    path = workspace.root / ".dvc/tmp/rwlock"
    try:
        json.loads(path.read_text(encoding="utf-8") if path.exists() else "{}")
    except json.JSONDecodeError:
        path.unlink()


def results(workspace: Workspace) -> dict[str, object]:
    """Return every byte that must not depend on kills, and whether there is one run a cell without a point twice."""
    names = ("backbone.safetensors", "projector.safetensors", "history.csv", "metrics.json", "health.json")
    files = [path for path in workspace.root.glob("runs/default/*/p*/*") if path.name in names]
    found: dict[str, object] = {str(path.relative_to(workspace.root)): path.read_bytes() for path in files}
    rows = csv_rows(workspace.root / "reports/comparison.csv")
    client = MlflowClient(f"sqlite:///{workspace.root}/mlflow.db")
    runs = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
    assert sorted(run.info.status for run in runs) == ["FINISHED"] * len(rows)
    assert len({run.data.tags["cell"] for run in runs}) == len(rows)
    for run in runs:
        for name in run.data.metrics:
            steps = [point.step for point in client.get_metric_history(run.info.run_id, name)]
            assert len(steps) == len(set(steps)), (name, steps)
    assert "0 disagreements" in workspace.run("python", "-m", "stages.verify")
    return found | {"table": [{k: v for k, v in row.items() if k not in OF_ONE_RUN} for row in rows]}


def test_killed_at_random_moments(tmp_path):
    whole, hurt = made(tmp_path / "whole"), made(tmp_path / "hurt")
    whole.repro("download@digits")
    began = time.monotonic()
    whole.repro()
    whole_s, draws, hits = time.monotonic() - began, random.Random(1), 0
    signals = [signal.SIGKILL, signal.SIGTERM, signal.SIGKILL, signal.SIGINT]
    while hits < len(signals):
        if killed_after(hurt, draws.uniform(0.5, 0.45 * whole_s), signals[hits]):
            hits += 1
        else:  # it came to its end between two kills: the next ones hit a new run
            assert results(hurt) == results(whole)
            hurt.run("bash", "-c", "rm -rf runs dvc.lock .scratch/checkpoints .dvc/cache/runs mlflow.db*")
        mend(hurt)
    hurt.repro()
    assert results(hurt) == results(whole)
    assert not list((hurt.root / ".scratch/checkpoints").rglob("*.pt")), "a finished cell keeps no state"


@pytest.fixture(scope="module")
def workspace(tmp_path_factory) -> Workspace:
    return one_training(tmp_path_factory.mktemp("clone"))


@pytest.fixture(scope="module")
def whole(workspace) -> dict[str, bytes]:
    """Return the bytes of an uninterrupted run."""
    workspace.run(*COMMAND)
    return taken(workspace)


@pytest.fixture
def killed(workspace, whole) -> int:
    """Kill a run in its middle, and return the steps of its newest state."""
    silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "start_new_session": True}
    process = subprocess.Popen(COMMAND, cwd=workspace.root, env=workspace.environment, **silent)
    deadline = time.monotonic() + 120
    while not done(workspace) >= 8:
        assert time.monotonic() < deadline and process.poll() is None, "no state was kept"
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert done(workspace) < STEPS
    return done(workspace)


@pytest.mark.core
def test_execution_may_change_between_two_parts(workspace, whole, killed):
    execute(workspace, checkpoint={"minutes": 30})
    output = workspace.run(*COMMAND)
    execute(workspace, checkpoint={"minutes": 1e-6})
    assert f"{killed}/{STEPS} " in output, "the bar starts where the run was killed"
    assert taken(workspace) == whole


def test_another_setting_starts_afresh(workspace, killed):
    path = workspace.root / CONFIGS / "pretrain.json"
    told = path.read_text()
    path.write_text(told.replace('"lambda": 0.05', '"lambda": 0.06'))
    output = workspace.run(*COMMAND)
    assert f" 0/{STEPS} " in output
    path.write_text(told)
    taken(workspace)
