"""Claims about the launcher's tasks, plan and order, without running a stage of the benchmark:

1. The tasks are stages of DVC's own list, each after all that it needs; shared weights are trained once.
2. What is up to date is left out, what was lost or damaged comes from DVC's cache; what depends on what runs, runs if
   that comes to another result; results of an earlier launch that nobody has recorded count unless they, their
   settings, code or inputs have changed: then they are moved aside.
3. Failed tasks are named with the end of their log, what needs them is skipped, all else is done; lost ones run again.
4. A program starts on an empty folder, waits for an orphan of itself, and ends as by Ctrl-C.
5. Pipelines without cells are refused with a remedy.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from pipeline.launch import recording, runner, stage_program
from pipeline.launch.engines import Options, open_engine
from pipeline.launch.recording import Plan, Records, make_plan
from pipeline.launch.runner import Runner
from pipeline.launch.stage_program import Outcome, Run, is_made, run_task
from pipeline.launch.task_graph import Graph, Task, cell_graph
from pipeline.runtime.errors import Interrupted, UserError
from pipeline.settings.grid import open_listing
from stages import launch

pytestmark = pytest.mark.seconds

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(("project", "folder"), [(".", "."), ("paper", "table3")])
def test_tasks_are_stages_of_dvc_after_all_they_need(project, folder, monkeypatch):
    monkeypatch.chdir(ROOT / project)
    graph = cell_graph(open_listing(Path(folder, "params.yaml")))
    listed = [sys.executable, "-m", "dvc", "stage", "list", "--name-only", *graph.files]
    known = subprocess.run(listed, capture_output=True, text=True, check=True).stdout.split()
    assert set(graph.tasks) <= set(known)
    cells = {name for name in known if name.startswith(("probe@", f"{folder}/dvc.yaml:probe@"))}
    assert cells and cells <= set(graph.tasks), "every cell is a task"
    assert {"pretrain", "probe"} >= {task.program for task in graph.tasks.values() if not task.here}
    order = list(graph.tasks)
    assert all(order.index(need) < order.index(stage) for stage, task in graph.tasks.items() for need in task.needs)
    if folder == "table3":
        assert any(stage.startswith("table5/dvc.yaml:pretrain@") for stage in graph.tasks)
        assert any(stage.startswith("models/dvc.yaml:model@") for stage in graph.tasks)
        assert {"data/dvc.yaml:inputs", "table3/dvc.yaml:configure", "table5/dvc.yaml:configure"} == {*graph.entrance}


WRITES = "import pathlib; p = pathlib.Path({out!r}); p.mkdir(parents=True); (p / 'out').write_text('made')"


def task(stage: str, *needs: str, code: str = "", here: bool = False) -> Task:
    """A cell's task whose program is a line of Python, or one that DVC would run."""
    if here:
        return Task(stage, ("-c", code or "pass"), needs)
    out = Path("runs", stage)
    settings = Path("settings.json")
    return Task(stage, ("-c", code or WRITES.format(out=str(out))), needs, "download", settings, (Path("data"),), out)


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("settings.json").write_text("{}")
    Path("data").mkdir()
    Path("data/images").write_text("images")
    return tmp_path


def small_graph() -> Graph:
    tasks = [task("data@d", here=True)]
    tasks += [
        made for key in "ab" for made in (task(f"pretrain@{key}", "data@d"), task(f"probe@{key}", f"pretrain@{key}"))
    ]
    return Graph("dvc.yaml", ("dvc.yaml",), {one.stage: one for one in tasks})


def names(tasks) -> list[str]:
    return [one.stage for one in tasks]


CHANGED = [{"changed deps": {"pipeline/losses": "modified"}}]


def planned(monkeypatch, graph: Graph, **status) -> Plan:
    monkeypatch.setattr(
        recording, "changed", lambda _: {name.replace("_", "@"): value for name, value in status.items()}
    )
    return make_plan(graph)


def finish(one: Task) -> None:
    run = Run(one, {})
    assert run.result() == Outcome(0)


def test_what_is_up_to_date_is_left_out(project, monkeypatch):
    plan = planned(monkeypatch, small_graph(), pretrain_b=CHANGED, compare=CHANGED)
    assert (names(plan.stale), names(plan.dependent), plan.made) == (["pretrain@b"], ["probe@b"], [])


LOST = {"changed outs": {"runs/a": "modified"}}
GONE = {"changed deps": {"runs/a/weights": "deleted"}}
BEFORE_ITS_PROBE = [{"changed deps": {"runs/a/weights": "modified"}}, {"changed outs": {"runs/b": "deleted"}}]


def test_what_was_lost_comes_from_the_cache_unless_it_would_be_another_now(project, monkeypatch):
    graph, told = small_graph(), []
    finish(graph.tasks["probe@b"])
    answers = [
        {"pretrain@a": [LOST], "probe@a": BEFORE_ITS_PROBE, "pretrain@b": [LOST, *CHANGED], "probe@b": [LOST]},
        {"probe@a": [GONE, LOST], "pretrain@b": [LOST, *CHANGED], "probe@b": [LOST]},
        {"probe@a": [LOST], "pretrain@b": [LOST, *CHANGED], "probe@b": [LOST]},  # not in the cache
    ]
    monkeypatch.setattr(recording, "changed", lambda _: answers.pop(0))
    monkeypatch.setattr(recording, "dvc", lambda *arguments: told.append(arguments))
    plan = make_plan(graph)
    assert [arguments[-1] for arguments in told] == ["pretrain@a", "probe@a"]
    assert names(plan.stale) == ["probe@a", "pretrain@b", "probe@b"]


def test_what_an_earlier_launch_made_is_recorded_and_not_run(project, monkeypatch):
    graph = small_graph()
    finish(graph.tasks["pretrain@a"])
    status = {"pretrain_a": CHANGED, "probe_a": CHANGED}
    plan = planned(monkeypatch, graph, **status)
    assert (names(plan.stale), names(plan.made)) == (["probe@a"], ["pretrain@a"])
    finish(graph.tasks["probe@a"])
    told, records = [], Records(graph, plan)
    monkeypatch.setattr(recording, "dvc", lambda *arguments: told.append(arguments))
    records.enter()
    assert records.stages == {"pretrain@a", "probe@a"}
    assert told == [("commit", "--force", "pretrain@a", "probe@a")]
    records.enter()
    assert len(told) == 1, "once"


@pytest.mark.parametrize("path", ["settings.json", "data/images", "runs/pretrain@a/out"])
def test_a_result_whose_origin_has_changed_does_not_count(project, path):
    one = task("pretrain@a")
    finish(one)
    assert is_made(one)
    Path(path).write_text("another")
    assert not is_made(one)


def test_a_result_that_cannot_be_recorded_is_moved_aside(project, monkeypatch, capsys):
    graph = small_graph()
    for content in ("one", "two"):
        finish(graph.tasks["pretrain@a"])
        Path("settings.json").write_text(content)
        assert names(planned(monkeypatch, graph, pretrain_a=CHANGED).stale) == ["pretrain@a"]
        assert not Path("runs/pretrain@a").exists()
    told = "pretrain@a: settings, code or inputs changed after it finished; runs/pretrain@a.before-{} holds"
    said = capsys.readouterr().err
    assert told.format(1) in said and told.format(2) in said
    assert [Path(f"runs/pretrain@a.before-{n}/out").read_text() for n in (1, 2)] == ["made", "made"]


class FakeJob:
    def __init__(self, outcome: Outcome | Exception) -> None:
        self.outcome = outcome

    def done(self) -> bool:
        return True

    def result(self) -> Outcome:
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome


class FakeEngine:
    """Ends every task at once: with 1 those whose name has an x, lost those with a y at first."""

    def __init__(self, slots: int | None = None) -> None:
        self.slots = slots
        self.ran = []

    def submit(self, one: Task) -> FakeJob:
        lost = "y" in one.stage and one.stage not in self.ran
        self.ran.append(one.stage)
        return FakeJob(
            RuntimeError("node died") if lost else Outcome(int("x" in one.stage), "begin\n\nERROR: the end\n")
        )

    def interrupt(self, jobs) -> None:
        assert not list(jobs)


def run_plan(monkeypatch, plan: Plan, changed=lambda _: {}, retries: int = 1) -> tuple[runner.Report, FakeEngine]:
    monkeypatch.setattr(runner, "POLL_S", 0.0)
    engine = FakeEngine(slots=1)
    return Runner(plan, engine, engine, changed, lambda: None, retries).run(), engine


def test_failures_are_named_and_everything_else_is_done(monkeypatch, capsys):
    tasks = [task("data@d", here=True), task("pretrain@a", "data@d"), task("pretrain@x", "data@d")]
    tasks += [task("probe@a", "pretrain@a"), task("probe@x", "pretrain@x"), task("probe@y", "data@d")]
    report, engine = run_plan(monkeypatch, Plan(tasks, [], []))
    assert sorted(engine.ran) == ["data@d", "pretrain@a", "pretrain@x", "probe@a", "probe@y", "probe@y"]
    assert str(report).splitlines() == [
        "failed   pretrain@x  (exit status 1; .scratch/launch/pretrain@x.log)",
        "         begin",
        "         ERROR: the end",
        "skipped  probe@x  (it needs what failed)",
        "4 done, 0 unchanged, 1 failed, 1 skipped",
    ]
    assert "lost: probe@y, which starts again (node died)" in capsys.readouterr().err
    report, _ = run_plan(monkeypatch, Plan([task("probe@y")], [], []), retries=0)
    assert "its job was lost 1 times: node died" in str(report)


def test_what_depends_runs_only_if_what_it_reads_is_another(monkeypatch):
    dependent = [task("pretrain@a", "data@d"), task("pretrain@b", "data@d"), task("probe@a", "pretrain@a")]
    plan = Plan([task("data@d")], dependent, [])
    report, engine = run_plan(monkeypatch, plan, changed=lambda stages: {"pretrain@b": CHANGED})
    assert engine.ran == ["data@d", "pretrain@b"]
    assert names(report.unchanged) == ["pretrain@a", "probe@a"] and not report.skipped


def test_a_program_starts_on_an_empty_folder(project):
    one = task("probe@a")
    one.out.mkdir(parents=True)
    (one.out / "old").touch()
    finish(one)
    assert [path.name for path in one.out.iterdir()] == ["out"]
    failing = task("probe@a", code="import sys; print('reason'); sys.exit(3)")
    assert Run(failing, {}).result() == Outcome(3) and not is_made(failing)
    assert stage_program.log_path("probe@a").read_text() == "reason\n"


SLEEPS = """
import pathlib, time
pathlib.Path("begun").touch()
try:
    time.sleep(60)
except BaseException:
    time.sleep(1)
    pathlib.Path("state").touch()
    raise
"""


def terminate_once_begun() -> None:
    def terminate() -> None:
        while not Path("begun").exists():
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=terminate, daemon=True).start()


def test_sigterm_ends_a_program_as_ctrl_c_does(project):
    terminate_once_begun()
    assert run_task(task("probe@a", code=SLEEPS), str(project), {}) == Outcome(130)
    assert Path("state").exists()


def test_a_program_waits_for_an_orphan_of_itself(project, capsys):
    orphan = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1.5)  # stages.pretrain"])
    began = time.monotonic()
    again = Task("probe@a", ("-c", "import time; time.sleep(1.5)  # stages.pretrain"))
    assert run_task(again, str(project), {}) == Outcome(0) and orphan.wait() == 0
    assert time.monotonic() - began > 2.5, "one after the other"
    assert f"waits for processes {{{orphan.pid}}} of an earlier attempt at probe@a" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["local", pytest.param("ray", marks=pytest.mark.slow)])
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning")
def test_an_interrupted_launch_says_how_to_resume(project, name):
    engine = open_engine(Options(name))
    terminate_once_begun()
    with pytest.raises(Interrupted, match="interrupted with 1 stages left; rerun the same command to resume"):
        Runner(Plan([task("probe@a", code=SLEEPS)], [], []), engine, engine, lambda _: {}, lambda: None, 0).run()
    assert Path("state").exists()


def test_a_pipeline_without_cells_is_told_what_to_run(monkeypatch):
    monkeypatch.chdir(ROOT / "paper")
    with pytest.raises(UserError, match=r"figure6/params.yaml has no grid.* dvc --cd paper repro figure6/dvc.yaml"):
        launch.main("figure6/dvc.yaml", "--engine", "local")
