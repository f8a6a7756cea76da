"""Claims about the stage pretrain as several processes, on real stages in a temporary clone:

1. pretrain.layout.processes starts so many by torchrun; the results are those of one process up to rounding, of one
   MLflow run, and say how many processes there were. Sharded ones write the same files.
2. A rank that is killed ends the run with an error that says so; that, or the death of the process that started them,
   leaves no process behind, and the same command goes on to the bits of a run that was left alone.
"""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from one_training import CELL, COMMAND, STEPS, done, execute, one_training, taken
from safetensors.torch import load
from workspace import Workspace

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def workspace(tmp_path_factory) -> Workspace:
    return one_training(tmp_path_factory.mktemp("clone"), layout={"processes": 2})


@pytest.fixture(scope="module")
def whole(workspace) -> dict[str, bytes]:
    """Return the bytes of a run by two processes that nothing disturbed."""
    workspace.run(*COMMAND)
    return taken(workspace)


def going(workspace: Workspace) -> subprocess.Popen:
    """Start the stage, from the last state if there is one, and wait until some steps are done."""
    wanted = done(workspace) + 8
    told = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "start_new_session": True}
    process = subprocess.Popen(COMMAND, cwd=workspace.root, env=workspace.environment, **told)
    deadline = time.monotonic() + 240
    while done(workspace) < wanted:
        assert time.monotonic() < deadline and process.poll() is None, process.communicate()[0]
        time.sleep(0.005)
    return process


def workers(workspace: Workspace) -> dict[int, int]:
    """Return {process: rank} of the stage's workers: the processes in its folder that torchrun gave a rank."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            variables = (folder / "environ").read_bytes().split(b"\0")
            if Path(os.readlink(folder / "cwd")) == workspace.root:
                found |= {int(folder.name): int(v[5:]) for v in variables if v.startswith(b"RANK=")}
        except OSError:  # ended meanwhile
            continue
    return found


def assert_all_end(workspace: Workspace) -> None:
    deadline = time.monotonic() + 60
    while left := workers(workspace):
        assert time.monotonic() < deadline, f"still there: {left}"
        time.sleep(0.1)


def losses(history: bytes) -> list[float]:
    return [float(row["loss"]) for row in csv.DictReader(history.decode().splitlines())]


def test_two_processes_train_one_cell(workspace, whole):
    provenance = workspace.root / "runs/default" / CELL / "pretrain" / "provenance.json"
    assert json.loads(provenance.read_text())["num_processes"] == 2
    execute(workspace, layout={"processes": 1})
    workspace.run(*COMMAND)
    assert json.loads(provenance.read_text())["num_processes"] == 1
    found = taken(workspace)
    # In float32 AdamW turns the rounding of a gradient near zero into a whole step: no bound of rounding holds here.
    # tests/core/distributed/test_several_processes.py has it in float64.
    assert losses(found["history.csv"]) == pytest.approx(losses(whole["history.csv"]), rel=0.02)
    execute(workspace, layout={"processes": 2, "sharded": True})
    workspace.run(*COMMAND)
    sharded = taken(workspace)
    assert losses(sharded["history.csv"]) == pytest.approx(losses(whole["history.csv"]), rel=0.02)
    shapes = [
        {name: each.shape for name, each in load(made["backbone.safetensors"]).items()} for made in (sharded, whole)
    ]
    assert shapes[0] == shapes[1]
    execute(workspace, layout={"processes": 2, "sharded": False})


def test_a_process_that_dies(workspace, whole):
    taken(workspace)
    for killed in (0, 1):
        process = going(workspace)
        assert sorted(workers(workspace).values()) == [0, 1]
        (victim,) = [number for number, rank in workers(workspace).items() if rank == killed]
        os.kill(victim, signal.SIGKILL)
        output, _ = process.communicate(timeout=120)
        assert process.returncode == 1, output
        # torchrun sees the death, and the other rank may see it before torchrun ends that one
        told = f"rank {killed} was killed (SIGKILL)", f"rank {1 - killed}: another process of this run ended"
        assert any(words in output for words in told), output
        assert "rerun the same command to resume from the last checkpoint" in output
        assert_all_end(workspace)
    starter = going(workspace)
    starter.kill()
    starter.communicate()
    assert_all_end(workspace)
    assert 24 <= done(workspace) < STEPS
    workspace.run(*COMMAND)
    assert taken(workspace) == whole
