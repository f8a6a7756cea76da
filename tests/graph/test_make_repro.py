"""Claims about `make repro`, that is stages.repro, with a stand-in for DVC; the real one: test_end_to_end.py.

1. Stages that have changed and all that follow from them are counted, those that did not need to run as well, and the
   time that is left is what they took before.
2. It ends with three lines: the best run of each data set beside its baselines, the page, `make ui`.
3. Where nothing has changed `dvc repro` is not called.
4. A failure keeps DVC's exit status and has no such lines; Ctrl-C and SIGTERM reach DVC, which is waited for.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.runtime.stage_count import told

ROOT = Path(__file__).parents[2]
EDGES = ("pretrain@a-1", "probe@a-1"), ("pretrain@b-1", "probe@b-1"), ("probe@a-1", "page"), ("probe@b-1", "page")
STAND_IN = (
    f"""
EDGES = {EDGES}
"""
    + """
import json, os, signal, subprocess, sys, time
signal.signal(signal.SIGINT, lambda *_: sys.exit(3))
signal.signal(signal.SIGTERM, lambda *_: sys.exit(4))
said, asked = json.loads(os.environ["SAID"]), open("asked").read().split() if os.path.exists("asked") else []
print(sys.argv[1], file=open("asked", "a"))
if sys.argv[1] == "status":
    print(json.dumps(said["changed"][asked.count("status")]))
elif sys.argv[1] == "dag":
    print(*('"%s" -> "%s";' % edge for edge in EDGES), sep="\\n")
elif sys.argv[1:] == ["repro"]:
    for stage in said["runs"]:
        env = os.environ | {"DVC_STAGE": stage}
        subprocess.run([sys.executable, "-c", "from stages import run; run(lambda: None)"], env=env, check=True)
    print("at work", flush=True)
    time.sleep(said.get("for_s", 0))
    sys.exit(said.get("code", 0))
"""
)
BEST = {"backbone": "vit", "lambda": 0.05, "linear_top1": 0.845}
BASELINES = {"random_init_linear_top1": 0.793, "raw_pixels_linear_top1": 0.8385}


@pytest.fixture
def clone(tmp_path) -> Path:
    for name, text in (("__init__", ""), ("__main__", STAND_IN)):
        (tmp_path / "dvc").mkdir(exist_ok=True)
        (tmp_path / f"dvc/{name}.py").write_text(text)
    (tmp_path / "reports").mkdir()
    (tmp_path / "reports/metrics.json").write_text(json.dumps({"digits": BEST | BASELINES, "my set": BEST}))
    return tmp_path


def start(clone: Path, **said) -> subprocess.Popen:
    """Begin; said: what DVC calls changed, each time it is asked, which stages run and how it ends."""
    environment = os.environ | {"PYTHONPATH": f"{clone}:{ROOT}", "SAID": json.dumps(said)}
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "start_new_session": True}
    return subprocess.Popen([sys.executable, "-m", "stages.repro"], cwd=clone, env=environment, **options)


@pytest.mark.seconds
def test_stages_are_counted_and_results_told(clone):
    process = start(clone, changed=[{"configure": []}, {"pretrain@a-1": []}], runs=["pretrain@a-1", "page"])
    lines = process.communicate()[0].splitlines()
    assert process.returncode == 0, lines
    assert (clone / "asked").read_text().split() == ["status", "repro", "status", "dag", "repro"]
    count = lines.index("3 stages to run at most")
    assert lines[count + 1] == "stage 1 of 3" and lines[count + 2].startswith("stage 3 of 3")
    assert lines[-3:] == [
        "Best linear top-1, percent: digits 84.5, random init 79.3, raw pixels 83.9 (vit, lambda 0.05); "
        "my set 84.5 (vit, lambda 0.05)",
        f"All results: {(clone / 'reports/index.html').as_uri()}",
        "All runs in MLflow: make ui",
    ]
    seconds = json.loads((clone / ".scratch/repro.json").read_text())["seconds"]
    assert set(seconds) == {"pretrain@a-1", "page"}


@pytest.mark.seconds
def test_nothing_to_do(clone):
    lines = start(clone, changed=[{}]).communicate()[0].splitlines()
    assert (clone / "asked").read_text() == "status\n"
    assert "up to date" in lines[-4] and lines[-1].endswith("make ui")


@pytest.mark.seconds
@pytest.mark.parametrize(("signum", "code"), [(None, 7), (signal.SIGINT, 3), (signal.SIGTERM, 4)])
def test_exit_status_is_that_of_dvc(clone, signum, code):
    process = start(clone, changed=[{"page": []}], runs=[], code=7, for_s=60 if signum else 0)
    seen = next(line for line in process.stdout if line == "at work\n")
    if signum == signal.SIGINT:
        os.killpg(process.pid, signum)  # as a terminal does
    elif signum:
        process.send_signal(signum)
    assert "make ui" not in seen + process.communicate()[0] and process.returncode == code


def test_the_time_that_is_left():
    seconds = {"pretrain@a-net-1": 3600.0, "pretrain@a-vit-1": 600.0, "pretrain@b-vit-1": 60.0}
    assert told(9, ["pretrain@a-vit-2"], {}) == "stage 9 of 9"
    assert told(9, ["pretrain@a-vit-2", "pretrain@b-vit-1"], seconds) == "stage 8 of 9, about 11 min left"
    assert told(9, ["pretrain@c-net-1", "probe@c-net-1"], seconds) == "stage 8 of 9, at least 60 min left"
