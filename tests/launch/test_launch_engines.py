"""Claims about launches of the real pipeline, one machine, two nodes of Ray, and a SLURM that programs stand for:

1. On Ray a grid is completed although a worker is killed on the way; its stage's program ends with it. Afterwards DVC
   has nothing to do, and tables, files, dvc.lock and MLflow agree.
2. SIGTERM interrupts the stages, which keep their state; what was done is recorded. The same command goes on, also on
   another engine, here SLURM, which gets one job a task with the settings asked for.
3. dvc.lock is the one that a serial run writes; files that were lost or damaged afterwards come from DVC's cache.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import psutil
import pytest
import yaml
from workspace import ROOT, Workspace

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::ResourceWarning")]
PIPES = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}


@pytest.fixture
def cluster() -> Iterator[str]:
    """Start two nodes of one core each; yield the address."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    from ray.cluster_utils import Cluster

    started = Cluster()
    for _ in range(2):
        started.add_node(num_cpus=1, include_dashboard=False, env_vars={"PYTHONPATH": str(ROOT)})
    yield started.address
    started.shutdown()


def small_grid(folder, **grid) -> Workspace:
    workspace = Workspace(folder)
    workspace.change_params({"grid": {"backbones": ["test_byobnet"], **grid}, "pretrain": {"epochs": 2}})
    workspace.keep_stages()
    workspace.environment["OMP_NUM_THREADS"] = "1"  # the launcher gives a cell one core
    return workspace


def launch(workspace: Workspace, *options: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "stages.launch", *options]
    return subprocess.Popen(command, cwd=workspace.root, env=workspace.environment, **PIPES)


def programs(workspace: Workspace, words: str) -> list[psutil.Process]:
    """Processes in the clone with these words in their command."""
    running = psutil.process_iter(["cmdline", "cwd"])
    here = [process for process in running if process.info["cwd"] == str(workspace.root)]
    return [process for process in here if words in " ".join(process.info["cmdline"] or ())]


def seen(workspace: Workspace, words: str, launcher: subprocess.Popen) -> list[psutil.Process]:
    """Wait for such processes."""
    while launcher.poll() is None:
        if found := programs(workspace, words):
            return found
        time.sleep(0.1)
    raise AssertionError(f"{words} was never seen:\n{launcher.communicate()[0]}")


def test_a_grid_survives_the_death_of_a_worker(cluster, tmp_path):
    workspace = small_grid(tmp_path / "clone", lambdas=[0.02, 0.05])
    with launch(workspace, "--engine", "ray", "--address", cluster) as launcher:
        program = seen(workspace, "stages.pretrain", launcher)[0]
        worker = program.parent()
        assert "ray::run_task" in worker.name() or "ray::" in " ".join(worker.cmdline())
        worker.send_signal(signal.SIGKILL)
        assert psutil.wait_procs([program], timeout=90)[1] == [], "the program of a killed worker fights its retry"
        printed, _ = launcher.communicate()
    assert launcher.returncode == 0, printed
    assert "lost: pretrain@" in printed and "5 done, 0 unchanged, 0 failed, 0 skipped" in printed, printed
    assert workspace.repro() == []
    assert "2 cells of grid 'default': 0 disagreements" in workspace.run("python", "-m", "stages.verify")


SBATCH = """\
#!/usr/bin/env python
import os, pathlib, subprocess, sys
here, script = pathlib.Path(__file__).parent, pathlib.Path(sys.argv[-1]).read_text()
job = str(len(list(here.glob("job-*"))) + 1)
(here / f"job-{job}").write_text(script)
number = dict.fromkeys(["SLURM_NODEID", "SLURM_PROCID", "SLURM_LOCALID"], "0")
number |= dict.fromkeys(["SLURM_NTASKS", "SLURM_JOB_NUM_NODES"], "1")
words = script.splitlines()[-1].split()
command = words[words.index(sys.executable) :]
number |= {"SLURM_JOB_ID": job, "SUBMITIT_EXECUTOR": "slurm"}
output = (here / f"out-{job}").open("w")
subprocess.Popen(command, env={**os.environ, **number}, stdout=output, stderr=output)
print(f"Submitted batch job {job}")
"""
FAKES = {"sbatch": SBATCH, "srun": "#!/bin/sh\n", "sacct": "#!/bin/sh\necho 'JobID|State'\n"}
FAKES["squeue"] = '#!/bin/sh\ncat "$(dirname "$0")/queue"\n'


def test_an_interrupted_launch_goes_on_elsewhere(tmp_path):
    slurm = tmp_path / "bin"
    slurm.mkdir()
    for name, text in FAKES.items():
        (slurm / name).write_text(text)
        (slurm / name).chmod(0o755)
    workspace = small_grid(tmp_path / "clone", lambdas=[0.05])
    workspace.change_params({"pretrain": {"epochs": 6}})
    workspace.environment["PATH"] += f":{slurm}"
    with launch(workspace, "--engine", "local") as launcher:
        program = seen(workspace, "stages.pretrain", launcher)
        while not list(workspace.root.glob(".scratch/checkpoints/*/*")):
            assert launcher.poll() is None
            time.sleep(0.1)
        launcher.terminate()
        printed, _ = launcher.communicate(timeout=180)
    assert launcher.returncode == 128 + 15 and "rerun the same command to resume" in printed, printed
    assert not any(process.is_running() for process in program)
    assert list(workspace.root.glob(".scratch/checkpoints/*/*")), "the state was kept"

    (slurm / "queue").write_text("17\n")
    asked = [
        "--engine",
        "slurm",
        "--cpus-per-cell",
        "3",
        "--gpus-per-cell",
        "2",
        "--slurm",
        "partition=long",
        "time=90",
    ]
    with launch(workspace, *asked) as launcher:
        assert "has jobs of an earlier launch in this clone: 17; wait" in launcher.communicate()[0]
    (slurm / "queue").write_text("")
    with launch(workspace, *asked) as launcher:
        printed, _ = launcher.communicate()
    assert launcher.returncode == 0 and "2 done, 0 unchanged, 0 failed" in printed, printed
    jobs = [job.read_text() for job in slurm.glob("job-*")]
    assert len(jobs) == 2
    for line in ("cpus-per-task=3", "gpus-per-node=2", "partition=long", "time=90"):
        assert all(f"#SBATCH --{line}\n" in job for job in jobs), jobs[0]
    assert workspace.repro() == []


@pytest.mark.core
def test_local_gives_what_a_serial_run_gives(tmp_path):
    serial, launched = small_grid(tmp_path / "serial", lambdas=[0.05]), small_grid(tmp_path / "many", lambdas=[0.05])
    serial.repro()
    with launch(launched, "--engine", "local") as launcher:
        printed, _ = launcher.communicate()
    assert launcher.returncode == 0 and "3 done, 0 unchanged, 0 failed, 0 skipped" in printed, printed
    locks = [yaml.safe_load((workspace.root / "dvc.lock").read_text())["stages"] for workspace in (serial, launched)]
    for stages in locks:
        for stage in stages.values():  # times differ, and with them the files that hold them
            stage.pop("outs")
            stage["deps"] = [dep["path"] for dep in stage.get("deps", [])]
    assert locks[0] == locks[1]
    weights = [
        next(workspace.root.glob("runs/default/*/pretrain/backbone.safetensors")) for workspace in (serial, launched)
    ]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    weights[1].write_bytes(b"half written")
    for lost in launched.root.glob("runs/default/*/p*/metrics.json"):
        lost.unlink()
    with launch(launched, "--engine", "local") as launcher:
        assert "0 to run, 0 that depend on them, 0 to record" in launcher.communicate()[0]
    assert weights[0].read_bytes() == weights[1].read_bytes() and launched.repro() == []
