"""Claims about machines that are not ours, by the cases that strangers met (C3 to C12) and others of their kinds.

1. C3: runs and artifacts lie beside the clone, whatever its path holds and wherever it is moved or copied to.
2. C4, C11: a disk without write-ahead log or file locks is named, and work goes on.
3. C5: a tracking address is used or refused; a server that is away costs one line (tracking/test_cases_server.py).
4. C6: a port that is taken is named, with a free one.
5. C7, C8: the device, its precision and threads are printed; GPUs that are old, unusable or Apple's are taken as such.
6. C9: an environment that speaks of other processes is believed only if it can be; nobody waits without a word.
7. C10: whatever the terminal, printing fails no stage.
8. C11: the launcher names who else works in the clone, and ends.
9. C2, C12: make says what is missing before it installs anything.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import MagicMock

import pytest
import torch
from cell_record import OPENING, ROWS, finished
from mlflow.tracking._tracking_service.utils import _artifact_repos_cache
from stores import new_store, the_run

from pipeline.core.distributed import collectives, devices
from pipeline.core.distributed.devices import announced, choose_autocast, choose_device
from pipeline.core.distributed.torchrun import relaunch_under_torchrun
from pipeline.launch.stage_program import refuse_company
from pipeline.runtime.errors import UserError
from pipeline.tracking.live_run import LiveRun, publish_or_warn
from pipeline.tracking.place import clone_store, place
from pipeline.tracking.store import Store
from pipeline.tracking.trouble import StoreError
from stages import run, ui

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")

pytestmark = pytest.mark.seconds


@pytest.fixture(autouse=True)
def own_environment(monkeypatch):
    names = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT", "MLFLOW_TRACKING_URI")
    for name in (*names, *collectives.TOGETHER, "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)


# 1. The clone's path


def artifacts_of(store: Store) -> list[Path]:
    run_id = the_run(store).info.run_id
    return sorted(Path(store.place.parent, "mlruns", run_id, "artifacts").rglob("*.json"))


def test_c3_artifacts_lie_beside_the_clone(tmp_path, monkeypatch):
    clone = tmp_path / "a b#c ünï;&x=1, 50% of %20 e?f"
    (clone / "paper").mkdir(parents=True)
    (clone / "pyproject.toml").touch()
    monkeypatch.chdir(clone / "paper")
    store = Store()
    store.publish(finished())
    assert store.place == clone / "mlflow.db" and artifacts_of(store) and store.disagreements(finished()) == []
    assert list(tmp_path.iterdir()) == [clone] and not list((clone / "paper").iterdir())


@pytest.mark.parametrize(("how", "name"), [(shutil.move, "n w"), (shutil.copytree, "n%20w")])
def test_c3_a_moved_or_copied_clone_has_its_own_artifacts(tmp_path, monkeypatch, capsys, how, name):
    (tmp_path / "old").mkdir()
    run_id = Store(new_store(tmp_path / "old")).publish(finished())
    how(tmp_path / "old", tmp_path / name)
    _artifact_repos_cache.clear()  # MLflow's, of this process
    capsys.readouterr()
    monkeypatch.chdir(tmp_path / name)
    store = Store(tmp_path / name / "mlflow.db")
    assert f"artifacts were in {tmp_path}/old/mlruns and are now read from the folder beside" in capsys.readouterr().err
    assert store.disagreements(finished()) == [] and store.publish(finished()) == run_id
    (file,) = artifacts_of(store)
    file.unlink()
    assert store.disagreements(finished()) == ["artifact pretrain.json is missing in MLflow"]
    store.publish(finished())
    assert file.exists() and store.disagreements(finished()) == []
    Store(tmp_path / name / "mlflow.db")
    assert capsys.readouterr().err == "", "said once"


# 2. Disks


class Refusing(sqlite3.Connection):
    """A connection to a store on a disk that refuses the write-ahead log, by an error."""

    def execute(self, sql, *arguments):
        if sql.startswith("PRAGMA journal_mode"):
            raise sqlite3.OperationalError("locking protocol")
        return super().execute(sql, *arguments)


def by_error(path: Path) -> sqlite3.Connection:
    return REAL_CONNECT(path, factory=Refusing)


def by_silence(path: Path) -> sqlite3.Connection:
    """Without shared memory SQLite stays with its old journal, and raises nothing."""
    return REAL_CONNECT(f"file:{path}?vfs=unix-none", uri=True)


REAL_CONNECT = sqlite3.connect


@pytest.mark.parametrize("connect", [by_error, by_silence])
def test_c4_no_write_ahead_log(tmp_path, monkeypatch, capsys, connect):
    path = new_store(tmp_path)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode=DELETE")
    with monkeypatch.context() as patch:
        patch.setattr("pipeline.tracking.store.sqlite3.connect", connect)
        store = Store(path)
    assert "this disk refuses a write-ahead log" in capsys.readouterr().err
    store.publish(finished())
    assert store.disagreements(finished()) == []


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_c11_no_file_locks(tmp_path, monkeypatch, capsys, number):
    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    path = new_store(tmp_path)
    publish_or_warn(finished(), path)
    assert f"this disk has no file locks ({os.strerror(number)})" in capsys.readouterr().err


# 3. Addresses


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("file:///tmp/mlruns", "MLFLOW_TRACKING_URI is 'file:///tmp/mlruns', where MLflow keeps no runs"),
        ("http://name:secret@127.0.0.1:1", "http://127.0.0.1:1 cannot be used: Connection refused; look whether"),
        ("nosuch://x", "nosuch://x cannot be used: "),
    ],
)
def test_c5_an_address_that_is_of_no_use_is_one_warning(tmp_path, monkeypatch, uri, words):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    begun = time.monotonic()
    with pytest.warns(UserWarning) as caught, LiveRun(OPENING, afresh=True) as live:
        live.log_epoch(ROWS[0])
    (told,) = [str(warning.message) for warning in caught]
    assert words in told and "stages.sync" in told and "secret" not in told and "\n" not in told
    assert time.monotonic() - begun < 5 and not list(tmp_path.iterdir())


def test_c5_a_server_that_never_answers(monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(StoreError, match="timed out; look whether"):
        begun = time.monotonic()
        Store(f"http://127.0.0.1:{silent.getsockname()[1]}")
    assert time.monotonic() - begun < 5


def test_c5_a_database_of_ones_own(tmp_path, monkeypatch):
    new_store(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    assert place() == tmp_path / "mlflow.db"
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "mine")
    store = Store()
    assert store.client.get_experiment(store.experiment_id).name == "mine"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///other.db")
    assert place() == clone_store().with_name("other.db"), "in the clone, from paper/ as well"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", " ")
    assert place() == clone_store()


# 4. Ports


def told_by_ui(capsys, monkeypatch, *arguments: str) -> tuple[int, str]:
    monkeypatch.setattr(sys, "argv", ["ui", *arguments])
    with pytest.raises(SystemExit) as ended:
        run(ui.main)
    shown = capsys.readouterr()
    return ended.value.code, shown.out + shown.err


def test_c6_a_port_that_is_taken(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    new_store(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        code, told = told_by_ui(capsys, monkeypatch, str(port))
    assert code == 1 and f"port {port} cannot be used" in told and "make ui PORT=50" in told and "http" not in told
    assert told_by_ui(capsys, monkeypatch, "five")[0] == 1


def test_c6_the_port_is_honoured(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    new_store(tmp_path)
    server = MagicMock()
    server.return_value.__enter__.return_value = SimpleNamespace(poll=lambda: None, wait=lambda: 0)
    monkeypatch.setattr(ui.subprocess, "Popen", server)
    monkeypatch.setattr(ui, "answers", lambda port: port == 5987)
    code, told = told_by_ui(capsys, monkeypatch, "5987")
    assert code == 0 and "http://127.0.0.1:5987/#/experiments/1/" in told
    assert "report.mlflow_url: http://127.0.0.1:5987" in told and "--port 5987" in " ".join(server.call_args.args[0])


# 5. Devices


def gpu(monkeypatch, capability: tuple[int, int], *, arch_list=("sm_75", "sm_80", "sm_90"), count: int = 1) -> None:
    """Let torch see GPUs of that capability, which it says do bfloat16, by emulation."""
    fake = {
        "is_available": lambda: True,
        "init": lambda: None,
        "device_count": lambda: count,
        "get_device_capability": lambda *_: capability,
        "get_device_name": lambda *_: "Tesla T4",
        "get_arch_list": lambda: list(arch_list),
        "is_bf16_supported": lambda *_, **__: True,
    }
    for name, function in fake.items():
        monkeypatch.setattr(torch.cuda, name, function)


@pytest.mark.parametrize(("capability", "bf16"), [((7, 0), False), ((7, 5), False), ((8, 0), True), ((9, 0), True)])
def test_c7_bfloat16_is_never_emulated_by_itself(monkeypatch, capsys, capability, bf16):
    gpu(monkeypatch, capability)
    autocast = announced("auto", torch.device("cuda"))
    precision = "bfloat16" if bf16 else "float32"
    assert autocast._enabled == bf16
    assert capsys.readouterr().out == f"device cuda (Tesla T4), {precision}, {torch.get_num_threads()} threads\n"
    assert devices.found(torch.device("cuda"), autocast)["precision"] == precision
    assert announced("bfloat16", torch.device("cuda"))._enabled
    assert ("emulates slowly" in capsys.readouterr().out) == (not bf16)


def nvidia_smi(folder: Path, monkeypatch) -> None:
    program = folder / "bin/nvidia-smi"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\necho 'GPU 0: Tesla V100-SXM2-16GB (UUID: GPU-1)'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)


def test_c8_a_gpu_that_torch_cannot_use(tmp_path, monkeypatch, capsys):
    def old_driver():
        raise RuntimeError("The NVIDIA driver on your system is too old (found version 11040).\nPlease update")

    nvidia_smi(tmp_path, monkeypatch)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "init", old_driver)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    assert choose_device("auto") == CPU
    told = capsys.readouterr().err
    assert told.startswith(
        "WARNING: this machine has a GPU (GPU 0: Tesla V100-SXM2-16GB) that torch cannot use: The NV"
    )
    assert told.endswith("too old (found version 11040).; computing on the CPU\n") and told.count("\n") == 1
    with pytest.raises(UserError, match=r"no CUDA device is visible; set it to 'auto' or 'cpu' .*driver"):
        choose_device("cuda")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    choose_device("auto")
    assert "CUDA_VISIBLE_DEVICES='' hides it" in capsys.readouterr().err
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setattr(torch.version, "cuda", None)
    choose_device("auto")
    assert "is a build without CUDA" in capsys.readouterr().err
    choose_device("cpu")
    assert capsys.readouterr().err == "", "who wants the CPU is not told of others"


@pytest.mark.parametrize(
    ("capability", "arch_list", "fits"),
    [((6, 1), ("sm_75", "sm_80"), False), ((12, 0), ("sm_75", "sm_90"), False), ((8, 6), ("sm_80",), True)],
)
def test_c8_a_gpu_that_torch_was_not_built_for(tmp_path, monkeypatch, capsys, capability, arch_list, fits):
    nvidia_smi(tmp_path, monkeypatch)
    gpu(monkeypatch, capability, arch_list=arch_list)
    assert choose_device("auto").type == ("cuda" if fits else "cpu")
    assert ("its capability" in capsys.readouterr().err) == (not fits)


def test_an_apple_gpu(monkeypatch, capsys):
    with pytest.raises(UserError, match="'mps' but torch finds no Apple GPU here; set it to 'auto' or 'cpu'"):
        choose_device("mps")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    mps = torch.device("mps")
    assert choose_device("auto") == choose_device("mps") == mps and choose_device("cpu") == CPU
    assert not choose_autocast("auto", mps)._enabled
    assert choose_device("mps", exact=True) == CPU and "float64, which Apple GPUs lack" in capsys.readouterr().err
    gpu(monkeypatch, (9, 0))
    assert choose_device("auto").type == "cuda"
    several(monkeypatch)
    with pytest.raises(UserError, match=r"layout.processes must be 1 on an Apple GPU, got 2"):
        choose_device("mps")


# 6. Other processes


def several(monkeypatch, **changes: str) -> None:
    told = {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29400"} | changes
    for name, value in told.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"WORLD_SIZE": "2"}, r"has WORLD_SIZE=2, so .* but not RANK, MASTER_ADDR, MASTER_PORT.*unset WORLD_SIZE"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE must be >= 1"),
        ({"WORLD_SIZE": "2", "RANK": "2"}, "RANK from 0 to below it"),
        ({"SLURM_STEP_NUM_TASKS": "4"}, "SLURM_STEP_NUM_TASKS=4 says .* 4 processes.*pretrain.layout.processes: 4"),
    ],
)
def test_c9_what_cannot_be_is_refused(monkeypatch, environment, words):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=words):
        relaunch_under_torchrun("stages.pretrain", "nothing", 1)


def test_c9_a_world_of_one_is_passed_over(monkeypatch, capfd):
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert relaunch_under_torchrun("stages.pretrain", "nothing", 1) is None
    started = MagicMock(return_value=SimpleNamespace(returncode=0, poll=lambda: 0))
    monkeypatch.setattr("pipeline.core.distributed.torchrun.subprocess.Popen", started)
    assert relaunch_under_torchrun("stages.pretrain", "nothing", 2) == 0
    assert "--nproc-per-node=2" in started.call_args.args[0]
    assert "WORLD_SIZE=1 of the environment is passed over: pretrain.layout.processes is 2" in capfd.readouterr().err


def free_port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return str(server.getsockname()[1])


def test_c9_a_wait_says_for_what_and_ends(monkeypatch, capsys):
    several(monkeypatch, MASTER_PORT=free_port())
    monkeypatch.setattr(collectives, "WAIT_MIN", 0.04)
    monkeypatch.setattr(collectives, "TOLD_AFTER_S", 0.2)
    with (
        pytest.raises(UserError, match=r"rank 0 of 2 at .* did not meet .*unset WORLD_SIZE"),
        collectives.process_group(CPU),
    ):
        pass
    assert "waits for the other processes of the run" in capsys.readouterr().err


# 7. Terminals

PRINTS = """
import sys
from stages import run
def main():
    print("±")
    print("é", file=sys.stderr)
    print("end", file=sys.stderr)
run(main)
"""


@pytest.mark.parametrize("terminal", [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C"}])
def test_c10_printing_fails_no_stage(terminal):
    environment = {**os.environ, **terminal}
    command = [sys.executable, "-c", PRINTS]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True)
    assert done.returncode == 0 and done.stderr.endswith(b"end\n")


# 8. The launcher


@pytest.mark.parametrize("command", ["dvc repro", "stages.launch --engine ray"])
def test_c11_a_command_that_works_in_the_clone_is_named(tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    sleeps = [sys.executable, "-c", f"import time; time.sleep(60)  # {command}"]
    with subprocess.Popen(sleeps, cwd=tmp_path / "elsewhere") as other:
        refuse_company()
        other.kill()
    with subprocess.Popen(sleeps) as other:
        try:
            with pytest.raises(UserError, match=rf"process {other.pid}, .*{command}`; wait for its end or end it"):
                refuse_company()
        finally:
            other.kill()
    refuse_company()


# 9. make


def make(folder: Path, *arguments: str, code: int = 0, **environment: str) -> str:
    """As typed in a terminal: a make that runs these tests hands its own flags down."""
    environment = {**os.environ, "GIT_CEILING_DIRECTORIES": str(folder.parent), **environment}
    for name in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL"):
        environment.pop(name, None)
    told = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    done = subprocess.run(["make", *arguments], cwd=folder, env=environment, **told)
    assert done.returncode == code, done.stdout
    return done.stdout


@pytest.fixture
def download(tmp_path) -> Path:
    """A copy without .git, as `git archive` or a download makes it."""
    folder = tmp_path / "download"
    folder.mkdir()
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, folder)
    return folder


def test_c12_a_copy_without_git(download):
    told = make(download, "repro", code=2)
    assert "this copy has no git repository, which DVC needs" in told and "Installing" not in told
    (remedy,) = [line.strip() for line in told.splitlines() if line.startswith("  git init")]
    subprocess.run(
        remedy, shell=True, cwd=download, check=True, capture_output=True, env={**os.environ, "HOME": "/nowhere"}
    )
    assert "has no git repository" not in make(download, "repro", "PYTHON=false", code=2)


def test_c2_a_python_that_is_too_old(download, tmp_path):
    subprocess.run(["git", "init", "--quiet"], cwd=download, check=True)
    old = tmp_path / "python3"
    old.write_text(f'#!/bin/sh\nshift; exec {sys.executable} -c "import sys; sys.version_info = (3, 10); $1"\n')
    old.chmod(0o755)
    told = make(download, "repro", f"PYTHON={old}", code=2)
    assert "Python 3.10 is too old, 3.11 or newer is needed" in told and "Installing" not in told


@pytest.mark.parametrize("code", [0, 1])
def test_an_installation_says_how_far_it_is(download, tmp_path, code):
    subprocess.run(["git", "init", "--quiet"], cwd=download, check=True)
    pip = tmp_path / "python3"
    told = [
        *(f"Collecting package{n}" for n in range(40)),
        "  Downloading torch.whl (865.0 MB)",
        "  Downloading a.whl (9 kB)",
    ]
    lines = "\n".join([*told, "Installing collected packages: many"])
    pip.write_text(
        f"#!/bin/sh\nmkdir -p .venv/bin; cp $0 .venv/bin/python\ncase $2 in pip) echo '{lines}'; exit {code}; esac\n"
    )
    pip.chmod(0o755)
    said = make(download, ".venv/installed", f"PYTHON={pip}", code=2 * code)
    total = len((download / "constraints.txt").read_text().splitlines())
    for line in (f"  package 20 of {total}\n  package 40 of {total}\n", "torch.whl (865.0 MB)\n  unpacks them\n"):
        assert line in said
    assert "package1" not in said and "a.whl" not in said
    assert (download / ".venv/installed").exists() == (code == 0)


def test_c3_a_moved_environment_is_made_again(download):
    subprocess.run(["git", "init", "--quiet"], cwd=download, check=True)
    (download / ".venv/bin").mkdir(parents=True)
    (download / ".venv/bin/dvc").write_text("#!/old place/.venv/bin/python\n")
    (download / ".venv/installed").touch()
    told = make(download, "--dry-run", "repro", code=0)
    assert "moved or copied since .venv was made" in told and "rm -rf .venv\n" in told
    (download / ".venv/bin/dvc").write_text(f"#!{download}/.venv/bin/python\n")
    assert "rm -rf" not in make(download, "--dry-run", "repro", code=0)


HOMELESS = """
import os, pwd
def getpwuid(_): raise KeyError
pwd.getpwuid = getpwuid
del os.environ["HOME"]
import stages, getpass, pathlib
print(pathlib.Path.home(), getpass.getuser())
"""


def test_a_user_without_home_and_passwd_entry():
    """C12's kind: a container that runs as any number; MLflow's import would fail."""
    environment = {name: value for name, value in os.environ.items() if name not in ("USER", "LOGNAME", "LNAME")}
    environment["HOME"] = "/"
    done = subprocess.run([sys.executable, "-c", HOMELESS], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.stdout == f"{ROOT}/.scratch {os.getuid()}\n", done.stderr


@pytest.mark.parametrize("shell", ["/usr/bin/fish", "/nonexistent"])
def test_c1_stages_run_in_sh_whatever_the_login_shell(download, shell):
    (download / "own.mk").write_text("include Makefile\nshell-of-stages:\n\t@echo $$SHELL\n")
    assert make(download, "-f", "own.mk", "shell-of-stages", SHELL=shell) == "/bin/sh\n"
