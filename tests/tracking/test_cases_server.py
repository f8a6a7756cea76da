"""Claims about a tracking server that MLFLOW_TRACKING_URI names, on a real `mlflow server` on loopback (case C5):

1. Pretraining, probe, sync, verify and compare use it, artifacts by way of the server; no store is made in the clone.
2. `make ui` names its pages instead of starting another one.
3. Three clones that run the same cell at once have a run each there, whole, told apart by the clone's name; `verify`
   finds nothing in any of them.
4. A server that goes away while a cell trains costs one warning; what was missed is written by sync once it is back.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.request import urlopen

import pytest
from bad_place import Place
from cell_record import OPENING, ROWS, finished
from workspace import Workspace

from pipeline.tracking.live_run import LiveRun
from pipeline.tracking.place import clone_name
from pipeline.tracking.place import pages as place_of_pages
from pipeline.tracking.store import Store
from stages import compare, pretrain, probe, run, sync, ui, verify

pytestmark = pytest.mark.slow


class Server:
    """An `mlflow server` that can be stopped and started again at the same address."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._process = folder, None
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = str(free.getsockname()[1])
        self.address = f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", "sqlite:///server.db", "--workers"]
        command += ["1", "--artifacts-destination", str(self.folder / "kept"), "--host", "127.0.0.1"]
        silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "start_new_session": True}
        self._process = subprocess.Popen([*command, "--port", self.port], cwd=self.folder, **silent)
        deadline = time.monotonic() + 120
        while not self._answers():
            assert time.monotonic() < deadline and self._process.poll() is None, "the server did not start"
            time.sleep(0.2)

    def _answers(self) -> bool:
        try:
            with urlopen(f"{self.address}/health", timeout=5) as answer:
                return answer.status == 200
        except OSError:
            return False

    def stop(self) -> None:
        os.killpg(self._process.pid, 15)
        self._process.wait()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    made = Server(tmp_path_factory.mktemp("server"))
    made.start()
    yield made
    made.stop()


@pytest.fixture
def here(server, tmp_path, monkeypatch, capsys, request) -> Place:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.address)
    return Place(tmp_path, monkeypatch, capsys, request)


def told(here: Place, program, *arguments: str) -> tuple[int, str]:
    here.monkeypatch.setattr(sys, "argv", [program.__name__, *arguments])
    here.capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        run(program.main)
    shown = here.capsys.readouterr()
    return ended.value.code, shown.out + shown.err


def test_every_program_uses_the_server(server, here):
    probed = {"knn": {"k": 3}, "few_shot": {"shots": [1], "num_draws": 1}, "linear": {"epochs": 1}}
    here.configured({"pretrain": {"batch_size": 8, "epochs": 1}, "probe": probed})
    (configs,) = Path("runs/default/configs").glob("digits*")
    assert told(here, pretrain, f"{configs}/pretrain.json")[0] == 0
    assert told(here, probe, f"{configs}/probe.json")[0] == 0
    store = Store()
    ((cell, run_id),) = store.finished_runs("default").items()
    assert cell == configs.name and list((server.folder / "kept").rglob("pretrain.json"))
    assert "MLflow holds 1 of 1 cells" in told(here, sync)[1]
    assert "MLflow run" not in told(here, verify)[1]
    store.client.delete_run(run_id)
    assert f"{cell}: 0 MLflow runs instead of one" in told(here, verify)[1]
    assert told(here, compare)[0] == 0
    (run_id,) = store.finished_runs("default").values()
    assert run_id in Path("reports/comparison.csv").read_text()
    assert "MLflow run" not in told(here, verify)[1]
    assert not list(Path().glob("mlflow.db*")) and not Path("mlruns").exists()


def test_its_pages_are_named(server, here):
    code, shown = told(here, ui)
    assert place_of_pages("http://127.0.0.1:5000") == server.address, "the page's links lead there"
    assert code == 0 and f"{server.address}/#/experiments/" in shown and "viewStateShareKey=lejepa" in shown


def test_three_clones_run_a_grid_at_once(here):
    clones = [Workspace(here.root / name) for name in ("a", "b", "c")]
    for clone in clones:
        clone.keep_stages()
        clone.change_params({"grid": {"backbones": ["test_vit"]}})
    silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    started = [subprocess.Popen(["dvc", "repro"], cwd=clone.root, env=clone.environment, **silent) for clone in clones]
    assert [program.wait() for program in started] == [0, 0, 0]
    for clone in clones:
        assert "1 cells of grid 'default': 0 disagreements" in clone.run("python", "-m", "stages.verify")
    store = Store()
    runs = store.client.search_runs([store.experiment_id], "tags.cell = 'digits--test_vit--lambda0.05--seed0'")
    assert sorted(found.data.tags["clone"].partition("-")[0] for found in runs) == ["a", "b", "c"]
    for found in runs:
        losses = store.client.get_metric_history(found.info.run_id, "train/loss")
        assert found.info.status == "FINISHED" and [point.step for point in losses] == [1, 2]


def test_a_copy_of_a_clone_gets_another_name_and_a_moved_one_keeps_it(tmp_path, monkeypatch):
    names = []
    for folder in ("first", "copy", "moved"):
        if folder == "copy":
            shutil.copytree(tmp_path / "first", tmp_path / folder)
        elif folder == "moved":
            (tmp_path / "first").rename(tmp_path / folder)
        else:
            (tmp_path / folder).mkdir()
            (tmp_path / folder / "pyproject.toml").touch()
        monkeypatch.chdir(tmp_path / folder)
        names += {clone_name(), clone_name()}
    first, copied, moved = names
    assert first == moved != copied and first.startswith("first-")


def test_a_server_that_goes_away(server, here):
    with pytest.warns(UserWarning, match=f"{server.address} cannot be used: .*stages.sync") as caught:
        with LiveRun(OPENING, afresh=True) as live:
            live.log_epoch(ROWS[0])
            server.stop()
            begun = time.monotonic()
            live.log_epoch(ROWS[1])
        assert time.monotonic() - begun < 10 and len(caught) == 1
    server.start()
    store = Store()
    store.publish(finished())
    assert store.disagreements(finished()) == []
