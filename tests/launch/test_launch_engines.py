"""Claims about the engines on one machine:

1. `--engine local` gives what a serial run gives; a failed cell is named and runs alone once it is mended.
2. SIGTERM interrupts the stages, which keep their state; a lost job starts again.
3. `--engine slurm` submits one job a cell with the settings asked for (of programs that stand for SLURM's).
"""

from __future__ import annotations

import subprocess
import time

import psutil
import pytest
import yaml
from small_pipeline import COMMAND, SmallPipeline


@pytest.mark.slow
@pytest.mark.core
def test_local_gives_what_a_serial_run_gives(tmp_path):
    serial, launched = tmp_path / "serial", tmp_path / "launched"
    for folder in (serial, launched):
        folder.mkdir()
    one, many = SmallPipeline(serial, cells="abc"), SmallPipeline(launched, cells="abc")
    one.run("dvc", "repro")
    printed = many.launch("--engine", "local")
    assert "5 done, 0 failed, 0 skipped\n" in printed
    assert "dvc repro dvc.yaml: Data and pipelines are up to date.\n" in printed
    assert many.total() == one.total() != ""
    locks = [yaml.safe_load((folder / "dvc.lock").read_text()) for folder in (serial, launched)]
    assert locks[0] == locks[1]
    assert "0 tasks" in many.launch("--engine", "local")


@pytest.mark.slow
def test_a_failed_cell_is_named_and_runs_alone_once_mended(tmp_path):
    pipeline = SmallPipeline(tmp_path, cells="abc", command=f"test ${{item.cell}} != b -o -e mended && {COMMAND}")
    printed = pipeline.launch("--engine", "local", code=1)
    assert "failed: work+check@b (exit status 255)" in printed and "failed to run: mkdir -p out; test b" in printed
    assert "skipped, as it needs what failed: total" in printed and "3 done, 1 failed, 1 skipped" in printed
    (tmp_path / "mended").touch()
    printed = pipeline.launch("--engine", "local")
    assert "dvc.yaml: 2 tasks, 1 of them here" in printed and "2 done, 0 failed, 0 skipped" in printed


def descendants(process: subprocess.Popen, words: str) -> list[psutil.Process]:
    """Wait until a descendant has these words in its command line."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        try:
            children = psutil.Process(process.pid).children(recursive=True)
            if found := [child for child in children if words in " ".join(child.cmdline())]:
                return found
        except psutil.Error:
            continue
        time.sleep(0.05)
    raise AssertionError(f"{words} was never seen:\n{process.communicate()[0]}")


STATEFUL = "if [ -e state ]; then echo ${item.cell} > out/${item.cell}.txt; else trap 'touch state; exit 1' INT; "
STATEFUL += "sleep 61.5 & wait; fi"


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["local", "ray"])
def test_sigterm_interrupts_the_stages_which_keep_their_state(engine, tmp_path):
    pipeline = SmallPipeline(tmp_path, cells="a", command=STATEFUL)
    launcher = pipeline.start("python", "-m", "stages.launch", "--engine", engine)
    descendants(launcher, "sleep 61.5")
    started = psutil.Process(launcher.pid).children(recursive=True)
    launcher.terminate()
    printed, _ = launcher.communicate(timeout=60)
    assert launcher.returncode == 128 + 15 and "rerun the same command to resume" in printed
    assert (tmp_path / "state").exists(), printed
    assert psutil.wait_procs(started, timeout=10)[1] == []
    pipeline.launch("--engine", engine)
    assert pipeline.total() == "a\n"


@pytest.mark.slow
def test_a_lost_job_starts_again(tmp_path):
    pipeline = SmallPipeline(tmp_path, cells="a", command=STATEFUL)
    launcher = pipeline.start("python", "-m", "stages.launch", "--engine", "local", "--retries", "1")
    descendants(launcher, "sleep 61.5")
    for job in descendants(launcher, "submitit.core._submit"):
        job.kill()
    printed, _ = launcher.communicate(timeout=90)
    assert launcher.returncode == 0 and "3 done, 0 failed" in printed, printed
    assert pipeline.total() == "a\n"


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


@pytest.mark.slow
def test_slurm_gets_a_job_for_each_cell(tmp_path):
    slurm, root = tmp_path / "bin", tmp_path / "clone"
    slurm.mkdir()
    root.mkdir()
    for name, text in {"sbatch": SBATCH, "srun": "#!/bin/sh\n", "sacct": "#!/bin/sh\necho 'JobID|State'\n"}.items():
        (slurm / name).write_text(text)
        (slurm / name).chmod(0o755)
    pipeline = SmallPipeline(root, cells="ab")
    pipeline.environment["PATH"] += f":{slurm}"
    asked = ["--cpus-per-cell", "3", "--gpus-per-cell", "2", "--slurm", "partition=long", "time=90"]
    assert "4 done, 0 failed" in pipeline.launch("--engine", "slurm", *asked)
    assert pipeline.total() == "seed\na\nseed\nb\n"
    jobs = [job.read_text() for job in slurm.glob("job-*")]
    assert len(jobs) == 2
    for line in ("cpus-per-task=3", "gpus-per-node=2", "partition=long", "time=90"):
        assert all(f"#SBATCH --{line}\n" in job for job in jobs), jobs[0]
