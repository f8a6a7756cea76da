"""Claims about the launcher on Ray with two nodes that share nothing but a DVC remote:

1. A grid of twelve cells of the real pipeline is completed, although a worker is killed on the way; the stages of the
   killed worker end with it. Afterwards `dvc repro` has nothing to do, and tables, files, dvc.lock and MLflow agree.
2. On an object store: results are those of a serial run, and a second launch does nothing.
3. Results that reached the remote are not computed again, whatever became of the launcher's disk.
4. What is sent to a node needs no copy of the code there.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import psutil
import pytest
from object_store import ObjectStore, object_store
from small_pipeline import ROOT, SmallPipeline
from workspace import Workspace

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::ResourceWarning")]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory) -> Iterator[str]:
    """Start two nodes of one core each, with a home of their own; yield the address."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    from ray.cluster_utils import Cluster

    started = Cluster()
    for _ in range(2):
        home = tmp_path_factory.mktemp("node")
        started.add_node(
            num_cpus=1, include_dashboard=False, env_vars={"NODE_HOME": str(home), "PYTHONPATH": str(ROOT)}
        )
    yield started.address
    started.shutdown()


def options(address: str) -> list[str]:
    return ["--engine", "ray", "--address", address, "--remote", "shared", "--workdir", "$NODE_HOME/cells"]


def workers() -> list[psutil.Process]:
    """Ray's processes that run a cell now."""
    running = psutil.process_iter(["cmdline"])
    return [process for process in running if (process.info["cmdline"] or [""])[0] == "ray::_in_clone"]


def stage_of(worker: psutil.Process, program: str) -> list[psutil.Process]:
    """What a worker has started, if the program of a stage is among it."""
    children = worker.children(recursive=True)
    return children if any(program in " ".join(child.cmdline()) for child in children) else []


def kill_one(program: str, launcher: subprocess.Popen) -> list[psutil.Process]:
    """Kill a worker while the program runs below it; return what it had started."""
    while launcher.poll() is None:
        for worker in workers():
            try:
                if started := stage_of(worker, program):
                    worker.send_signal(signal.SIGKILL)
                    return started
            except psutil.Error:
                continue
        time.sleep(0.1)
    raise AssertionError(f"{program} was never seen:\n{launcher.communicate()[0]}")


def test_a_grid_survives_the_death_of_a_worker(cluster, tmp_path):
    workspace = Workspace(tmp_path / "clone")
    workspace.change_params(
        {
            "grid": {"backbones": ["test_byobnet"], "lambdas": [0.02, 0.05, 0.1], "seeds": [0, 1, 2, 3]},
            "pretrain": {"epochs": 1},
        }
    )
    workspace.keep_stages()
    workspace.run("dvc", "remote", "add", "--default", "shared", str(tmp_path / "remote"))
    command = ["python", "-m", "stages.launch", *options(cluster)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen(command, cwd=workspace.root, env=workspace.environment, **pipes) as launcher:
        orphans = kill_one("-m stages.pretrain", launcher)
        _, alive = psutil.wait_procs(orphans, timeout=90)
        assert alive == [], "the stages of a killed worker fight its retry"
        printed, _ = launcher.communicate()
    assert launcher.returncode == 0, printed
    assert "0 failed, 0 skipped" in printed and printed.splitlines()[-1].endswith("up to date."), printed
    assert workspace.repro() == []
    assert "12 cells of grid 'default': 0 disagreements" in workspace.run("python", "-m", "stages.verify")


@pytest.fixture
def store(tmp_path) -> Iterator[ObjectStore]:
    with object_store(tmp_path) as running:
        yield running


def test_nodes_exchange_results_through_an_object_store(cluster, store, tmp_path):
    serial, launched = tmp_path / "serial", tmp_path / "launched"
    for folder in (serial, launched):
        folder.mkdir()
    one, many = SmallPipeline(serial, cells="abcd"), SmallPipeline(launched, cells="abcd")
    one.run("dvc", "repro")
    store.add_to(many)
    printed = many.launch(*options(cluster))
    assert "6 tasks, 2 of them here" in printed and "6 done, 0 failed, 0 skipped" in printed
    assert many.total() == one.total() != ""
    logs = sorted((launched / ".scratch/launch").glob("work+check@*.log"))
    assert len(logs) == 4 and all("Running stage 'work@" in log.read_text() for log in logs)
    assert "0 tasks" in many.launch(*options(cluster))

    for made in ("out", ".dvc/cache"):
        shutil.rmtree(launched / made)
    (launched / "dvc.lock").unlink()
    assert "6 done, 0 failed, 0 skipped" in many.launch(*options(cluster))
    assert many.total() == one.total()
    assert not any("Running stage" in log.read_text() for log in logs)


SEND = """
import sys
import ray.cloudpickle
from pipeline import launch
from pipeline.launch import clones, on_ray, tasks
ray.cloudpickle.register_pickle_by_value(launch)
sent = on_ray._in_clone, clones.Snapshot("commit", b"", ()), tasks.Task(("probe@a",))
sys.stdout.buffer.write(ray.cloudpickle.dumps(sent))
"""
RECEIVE = """
import sys
sys.modules["pipeline"] = None
import ray.cloudpickle
function, snapshot, task = ray.cloudpickle.loads(sys.stdin.buffer.read())
assert callable(function) and snapshot.commit == "commit" and task.name == "probe@a"
try:
    function(b"no bundle", snapshot, task, sys.argv[1], {})
except RuntimeError as error:
    print(error)
"""


def test_what_is_sent_needs_no_code_there(tmp_path):
    sent = subprocess.run([sys.executable, "-c", SEND], cwd=ROOT, capture_output=True, check=True).stdout
    command = [sys.executable, "-c", RECEIVE, str(tmp_path / "cells")]
    printed = subprocess.run(command, cwd=tmp_path, input=sent, capture_output=True, check=True).stdout
    assert b"git fetch failed" in printed, "it ran up to the bundle, which is none"
