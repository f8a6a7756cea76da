"""Claims about runs that are hurt, on real stages in a temporary clone:

1. Killed again and again at random moments, a grid ends with the bits of one that was left alone, one MLflow run a cell
   and no duplicate point.
2. A run whose newest states are cut, altered or foreign goes on from the one before, to the same bits.
3. A disk that fills while a state is written ends the run with a remedy; once there is room it goes on, to the same
   bits.
4. Changing how a run is executed continues it; changing what it computes starts afresh.
"""

from __future__ import annotations

import csv
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient
from workspace import Workspace

pytestmark = pytest.mark.slow

CELL = "digits--test_byobnet--lambda0.05--seed0"
CONFIGS = f"runs/default/configs/{CELL}"
COMMAND = [sys.executable, "-m", "stages.pretrain", f"{CONFIGS}/pretrain.json"]
OF_ONE_RUN = {"mlflow_run_id", "train_s", "images_per_s", "peak_memory_mib"}  # columns of the table that no two share
EPOCHS, STEPS = 12, 60


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
    rows = list(csv.DictReader((workspace.root / "reports/comparison.csv").read_text().splitlines()))
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
    made = Workspace(tmp_path_factory.mktemp("clone"))
    made.change_params({"pretrain": {"epochs": EPOCHS}, "grid": {"backbones": ["test_byobnet"]}})
    made.run("dvc", "repro", "configure", "download@digits")
    execute(made, minutes=1e-6)
    return made


def execute(workspace: Workspace, *, minutes: float) -> None:
    path = workspace.root / CONFIGS / "execution.json"
    told = json.loads(path.read_text())
    path.write_text(json.dumps(told | {"checkpoint": {"minutes": minutes}}))


@pytest.fixture(scope="module")
def whole(workspace) -> dict[str, bytes]:
    """Return the bytes of an uninterrupted run."""
    workspace.run(*COMMAND)
    return taken(workspace)


@pytest.fixture
def states(workspace, whole) -> Path:
    """Return the folder of states of a run that was killed in its middle."""
    return killed_midway(workspace)


def taken(workspace: Workspace) -> dict[str, bytes]:
    """Return the results' bytes, and forget the states."""
    workspace.run("rm", "-rf", ".scratch/checkpoints")
    folder = workspace.root / "runs/default" / CELL / "pretrain"
    return {name: (folder / name).read_bytes() for name in ("backbone.safetensors", "history.csv", "metrics.json")}


def killed_midway(workspace: Workspace) -> Path:
    silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "start_new_session": True}
    process = subprocess.Popen(COMMAND, cwd=workspace.root, env=workspace.environment, **silent)
    deadline = time.monotonic() + 120
    while not done(workspace) >= 8:
        assert time.monotonic() < deadline and process.poll() is None, "no state was kept"
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    (folder,) = (workspace.root / ".scratch/checkpoints/default" / CELL).iterdir()
    assert done(workspace) < STEPS
    return folder


def newest(folder: Path) -> Path:
    return max(folder.glob("step-*.pt"))


def done(workspace: Workspace) -> int:
    """Return the steps of the newest state of the cell."""
    found = (workspace.root / ".scratch/checkpoints").rglob("step-*.pt")
    return max((int(path.name.split("-")[1]) for path in found), default=0)


@pytest.mark.parametrize("damage", ["cut", "altered", "foreign"])
def test_a_damaged_state_is_passed_over(workspace, whole, states, damage):
    path = newest(states)
    content = bytearray(path.read_bytes())
    if damage == "foreign":
        path.write_bytes(b"\x80\x04N.")
    else:
        content[len(content) // 2] ^= 1
        path.write_bytes(content if damage == "altered" else content[: len(content) // 3])
    output = workspace.run(*COMMAND)
    assert f"{path.name} is unreadable (torn or altered" in output
    assert taken(workspace) == whole


def test_no_room_for_a_state(workspace, whole, tmp_path):
    scratch = workspace.root / ".scratch"
    workspace.run("mkdir", "-p", ".scratch")
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(scratch)]
    if subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("no right to mount a small file system")
    try:
        output = workspace.run(*COMMAND, code=None)
        assert "disk is full" in output or "No space left" in output, output
        assert "ERROR: " in output and "Traceback" not in output, output
        workspace.run("mount", "-o", "remount,size=64m", str(scratch))
        workspace.run(*COMMAND)
    finally:
        workspace.run("umount", str(scratch))
    assert taken(workspace) == whole


@pytest.mark.core
def test_execution_may_change_between_two_parts(workspace, whole, states):
    before = done(workspace)
    execute(workspace, minutes=30)
    output = workspace.run(*COMMAND)
    execute(workspace, minutes=1e-6)
    assert f"{before}/{STEPS} " in output, "the bar starts where the run was killed"
    assert taken(workspace) == whole


def test_another_setting_starts_afresh(workspace, whole, states):
    path = workspace.root / CONFIGS / "pretrain.json"
    told = path.read_text()
    path.write_text(told.replace('"lambda": 0.05', '"lambda": 0.06'))
    output = workspace.run(*COMMAND)
    assert f" 0/{STEPS} " in output
    path.write_text(told)
    workspace.run("rm", "-rf", ".scratch/checkpoints")
