"""Claims about the launcher's graph, tasks and options:

1. Every stage is in one task, whatever the graph; tasks can be ordered, and each stage then follows all it reads.
2. A cell's stages are one task, unless another stage must run in their middle; what is clean is left out.
3. Without a shared disk, what would not travel, and what nothing feeds, stays here.
4. A task waits for DVC's locks and for an earlier run of itself, and mends what a killed DVC process left half written;
   any other failure is not repeated.
5. Failed tasks are named with the end of their log, what needs them is skipped, all else is done.
6. The remaining time is the work left over the slots.
7. A clone elsewhere has the files of the working tree, committed or not, and keeps what git ignores.
8. Options that mean nothing, and engines that are not installed, are refused with a remedy.
"""

from __future__ import annotations

import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import networkx as nx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_pipeline import SmallPipeline

from pipeline.launch import cell, clones, running
from pipeline.launch.cell import Outcome
from pipeline.launch.engines import open_engine
from pipeline.launch.remote import check_remote
from pipeline.launch.status import seconds_left
from pipeline.launch.tasks import Stage, Task, blocks, joined, plan
from pipeline.runtime.errors import UserError


@st.composite
def graphs(draw) -> tuple[nx.DiGraph, dict]:
    """Any acyclic graph of up to 12 stages, any keys."""
    count = draw(st.integers(1, 12))
    pairs = [(a, b) for b in range(count) for a in range(b)]
    edges = draw(st.lists(st.sampled_from(pairs), unique=True)) if pairs else []
    names = draw(st.permutations([f"s{index}" for index in range(count)]))
    graph = nx.DiGraph()
    graph.add_nodes_from(names)
    graph.add_edges_from((names[a], names[b]) for a, b in edges)
    keys = draw(st.lists(st.sampled_from([None, ("dvc.yaml", "x"), ("dvc.yaml", "y")]), min_size=count, max_size=count))
    return graph, dict(zip(names, keys, strict=True))


@given(graphs())
def test_every_stage_runs_once_and_after_what_it_reads(drawn):
    graph, keys = drawn
    found = blocks(graph, keys)
    order = [stage for block in nx.topological_sort(joined(graph, found)) for stage in block]
    assert Counter(order) == Counter(list(graph))
    place = {stage: index for index, stage in enumerate(order)}
    assert all(place[read] < place[reader] for read, reader in graph.edges)
    for block in found:
        assert len(block) == 1 or (len({keys[stage] for stage in block}) == 1 and keys[block[0]])


def graph_of(edges: list[tuple[str, str]], **facts: dict) -> nx.DiGraph:
    graph = nx.DiGraph(edges)
    for name in graph:
        key = name.partition("@")[2]
        graph.nodes[name]["stage"] = Stage(name, ("dvc.yaml", key) if key else None, **facts.get(name, {}))
    return graph


GRID = [
    *(("configure", f"pretrain@{cell}") for cell in "ab"),
    *(("download@digits", f"pretrain@{cell}") for cell in "ab"),
    *((f"pretrain@{cell}", f"probe@{cell}") for cell in "ab"),
    *((f"probe@{cell}", "diagnose") for cell in "ab"),
    ("diagnose", "pictures@digits"),
    ("pictures@digits", "compare"),
]


def names(tasks: nx.DiGraph, **of) -> set[str]:
    return {task.name for task in tasks if all(getattr(task, key) == value for key, value in of.items())}


def test_a_cell_is_one_task():
    tasks = plan(graph_of(GRID), exchange=False)
    cells = {"pretrain+probe@a", "pretrain+probe@b"}
    assert names(tasks, here=False) == {"download@digits", *cells, "pictures@digits"}
    assert names(tasks, here=True) == {"configure", "diagnose", "compare"}


def test_a_task_has_a_name_of_its_own():
    address = "paper/table7/dvc.yaml:{}@digits-vit-0.02"
    task = Task((address.format("pretrain"), address.format("probe")))
    assert task.name == "paper/table7/dvc.yaml:pretrain+probe@digits-vit-0.02"
    assert cell.log_path(task.name).name == "paper-table7-dvc.yaml-pretrain+probe@digits-vit-0.02.log"


def test_a_cell_that_must_be_left_in_its_middle_is_several_tasks():
    tasks = plan(graph_of([("pretrain@a", "mean"), ("mean", "probe@a"), ("pretrain@a", "probe@a")]), exchange=False)
    assert names(tasks) == {"pretrain@a", "mean", "probe@a"}


def test_what_is_clean_is_left_out():
    clean = {"clean": True}
    facts = {"configure": clean, "download@digits": clean, "pretrain@a": clean, "probe@a": clean, "pretrain@b": clean}
    left = {"pretrain+probe@b", "diagnose", "pictures@digits", "compare"}
    assert names(plan(graph_of(GRID, **facts), exchange=False)) == left
    pushed = plan(graph_of(GRID, **facts), exchange=True)
    assert names(pushed) == left | {"configure", "download@digits"}, "nodes have no other way to get these"


def test_without_a_shared_disk_only_what_travels_leaves():
    graph = graph_of(GRID, **{"pictures@digits": {"travels": False}})
    assert names(plan(graph, exchange=True), here=False) == {"pretrain+probe@a", "pretrain+probe@b"}


def test_seconds_left():
    assert seconds_left({"cell": 4}, [], {}, 2) is None
    assert seconds_left({"cell": 4}, [("cell", 10.0)], {"cell": [20.0, 30.0, 40.0]}, 2) == (4 * 30 + 20) / 2
    assert seconds_left({}, [("cell", 5.0)], {"cell": [30.0]}, 8) == 25, "the last one is not shared among slots"
    assert seconds_left({"other": 1}, [], {"cell": [30.0]}, 1) == 30, "what is unknown lasts as long as the rest"
    assert seconds_left({}, [("cell", 99.0)], {"cell": [30.0]}, 1) == 0


FAKE = """\
import pathlib, sys
tries = pathlib.Path("tries")
done = int(tries.read_text()) if tries.exists() else 0
tries.write_text(str(done + 1))
if done < {times}:
    print({said!r})
    sys.exit(255)
"""
LOCKED = "ERROR: Unable to acquire lock. Most likely another DVC process is running or was terminated abruptly."
BUSY = "ERROR: '/clone/data' is busy, it is being blocked by:\n  (PID 7): dvc repro"


def fake(said: str, times: int) -> list[str]:
    return [sys.executable, "-c", FAKE.format(said=said, times=times)]


@pytest.mark.parametrize("said", [LOCKED, BUSY])
def test_a_locked_repository_is_waited_for(said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(random, "uniform", lambda *_: 0.0)
    assert cell.run_commands([fake(said, 2), [sys.executable, "-c", "print('second')"]], Path("log")) == 0
    assert Path("tries").read_text() == "3" and "second" in Path("log").read_text()


@pytest.mark.parametrize("left", ['{"runs/a": {"write"', "", None, "{}"])
def test_a_list_that_a_kill_tore_is_forgotten(left, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(random, "uniform", lambda *_: 0.0)
    Path(".dvc/tmp").mkdir(parents=True)
    if left is not None:
        cell.FILES_IN_USE.write_text(left)
    torn = "ERROR: Unable to read RWLock-file '.dvc/tmp/rwlock'. JSON structure is corrupted: Expecting value"
    assert cell.run_commands([fake(torn, 1)], Path("log")) == 0
    assert Path("tries").read_text() == "2" and cell.FILES_IN_USE.exists() == (left == "{}")


def test_another_failure_is_not_repeated(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = [sys.executable, "-c", f"print({LOCKED!r})"]
    assert cell.run_commands([before, fake("ERROR: no such file", 2), before], Path("log")) == 255
    assert Path("tries").read_text() == "1" and Path("log").read_text().endswith("no such file\n")


def test_a_task_waits_for_an_orphan_of_itself(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', {!r}], close_fds=False)"
    orphan = "import time, pathlib; time.sleep(1.5); pathlib.Path('orphan').touch()"
    assert cell.run_commands([[sys.executable, "-c", code.format(orphan)]], Path("log")) == 0
    assert not Path("orphan").exists()
    seen = "import pathlib, sys; sys.exit(not pathlib.Path('orphan').exists())"
    assert cell.run_commands([[sys.executable, "-c", seen]], Path("log")) == 0


class FakeEngine:
    """Ends every task at once; those whose name has an x fail."""

    slots = 2
    room = True

    def __init__(self) -> None:
        self.ran, self._new = [], []

    def submit(self, task: Task) -> None:
        self.ran.append(task.name)
        self._new.append(task)

    def finished(self) -> list[tuple[Task, Outcome]]:
        over, self._new = self._new, []
        return [(task, Outcome(int("x" in task.name), 1.0, "begin\n\nERROR: the end\n")) for task in over]

    def cancel(self) -> None:
        raise AssertionError("nothing was to be cancelled")


def test_failures_are_named_and_everything_else_is_done(monkeypatch):
    monkeypatch.setattr(running, "POLL_S", 0.0)
    engine = FakeEngine()
    edges = [("configure", f"pretrain@{key}") for key in ("a", "x")]
    edges += [("pretrain@a", "table_a"), ("pretrain@x", "table_b"), ("table_b", "compare"), ("table_a", "compare")]
    report = running.Running(plan(graph_of(edges), exchange=False), engine, engine, None).run()
    assert engine.ran == ["configure", "pretrain@a", "pretrain@x", "table_a"]
    assert str(report).splitlines() == [
        "failed: pretrain@x (exit status 1); its full log: .scratch/launch/pretrain@x.log",
        "    begin",
        "    ERROR: the end",
        "skipped, as it needs what failed: table_b",
        "skipped, as it needs what failed: compare",
        "3 done, 1 failed, 2 skipped",
    ]


def git(root: Path, *arguments: str) -> str:
    command = ["git", "-c", "user.name=test", "-c", "user.email=test@localhost", *arguments]
    return subprocess.run(command, cwd=root, check=True, capture_output=True, text=True).stdout


def test_a_clone_has_the_files_of_the_working_tree(tmp_path):
    source = tmp_path / "source"
    (source / ".dvc").mkdir(parents=True)
    for name in (".dvc/config", "kept", "changed", "removed", "removed and staged"):
        (source / name).write_text("committed")
    (source / ".gitignore").write_text("/ignored\n/.dvc/config.local\n")
    git(source, "init", "--quiet")
    git(source, "add", "--all")
    git(source, "commit", "--quiet", "-m", "start")
    (source / "changed").write_text("changed")
    (source / "staged").write_text("staged")
    git(source, "add", "staged")
    git(source, "rm", "--quiet", "removed and staged")
    (source / "removed").unlink()
    (source / "ä new").write_text("new")
    (source / "ignored").write_text("here")

    with clones.clone(clones.bundle(source), clones.snapshot(source), "cell@1", tmp_path / "clones") as root:
        here, there = ({p.name: p.read_text() for p in place.iterdir() if p.is_file()} for place in (source, root))
        assert there == {name: text for name, text in here.items() if name != "ignored"}
        assert git(root, "rev-parse", "HEAD") == git(source, "rev-parse", "HEAD")
        (root / "ignored").write_text("state of an interrupted run")
        (root / "changed").write_text("by a stage")
    (source / "changed").write_text("once more")
    with clones.clone(clones.bundle(source), clones.snapshot(source), "cell@1", tmp_path / "clones") as root:
        assert (root / "changed").read_text() == "once more"
        assert (root / "ignored").read_text() == "state of an interrupted run"


OPTIONS = {"address": None, "gpus": None, "cpus": 1, "retries": 0, "workdir": None, "slurm": []}


@pytest.mark.parametrize(
    ("name", "options", "told"),
    [
        ("ray", {"cpus": 0}, "--cpus-per-cell must be >= 1, got 0"),
        ("ray", {"gpus": -1.0}, "--gpus-per-cell must be >= 0, got -1"),
        ("ray", {"retries": -1}, "--retries must be >= 0, got -1"),
        ("local", {"address": "auto"}, "--address auto is a Ray cluster's"),
        ("local", {"slurm": ["partition=gpu"]}, "--slurm is for --engine slurm, got local"),
        ("slurm", {"slurm": ["partition"]}, "--slurm takes KEY=VALUE, got 'partition'"),
        ("slurm", {"gpus": 0.5}, "--gpus-per-cell must be whole for SLURM, got 0.5"),
        ("local", {"gpus": 1.0}, "--engine local hands out no GPUs; use --engine ray"),
    ],
)
def test_options_that_mean_nothing_are_refused(name, options, told):
    with pytest.raises(UserError, match=told.replace("(", r"\(")):
        open_engine(name, **{**OPTIONS, **options})


@pytest.mark.parametrize(("name", "library"), [("ray", "ray"), ("slurm", "submitit"), ("local", "submitit")])
def test_an_engine_that_is_not_installed_says_how(name, library, monkeypatch):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(UserError, match=r'pip install -e "\.\[cluster\]"'):
        open_engine(name, **OPTIONS)


def test_slurm_is_missed_by_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=r"--engine slurm: .*srun"):
        open_engine("slurm", **OPTIONS)


def test_a_remote_must_be_one_that_nodes_find(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    SmallPipeline(tmp_path)
    with pytest.raises(UserError, match="needs --engine ray, got slurm"):
        check_remote("shared", "slurm")
    with pytest.raises(UserError, match=r"is not in \.dvc/config.*dvc remote add shared URL"):
        check_remote("shared", "ray")
    subprocess.run([sys.executable, "-m", "dvc", "remote", "add", "shared", "/somewhere"], check=True)
    with pytest.raises(UserError, match="dvc remote default shared"):
        check_remote("shared", "ray")
    subprocess.run([sys.executable, "-m", "dvc", "remote", "default", "shared"], check=True)
    check_remote("shared", "ray")
    monkeypatch.setattr("pipeline.launch.remote.repository", lambda: shallow_clone(tmp_path))
    with pytest.raises(UserError, match="nodes need the history, which this clone lacks; run: git fetch --unshallow"):
        check_remote("shared", "ray")


def shallow_clone(source: Path) -> Path:
    git(source, "commit", "--quiet", "--allow-empty", "-m", "one more")
    git(source, "clone", "--quiet", "--depth", "1", source.as_uri(), "shallow")
    return source / "shallow"
