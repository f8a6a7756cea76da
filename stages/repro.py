"""Bring the benchmark up to date and say how far it is: `python -m stages.repro`, which `make repro` calls.

The work is done by `dvc repro`, whose output and exit status are kept; where nothing has changed it is not called.
Stages are counted by what `dvc status` says once `configure` has written the settings that decide it.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

from pipeline.reports.closing_lines import closing_lines
from pipeline.runtime.files import read_json
from pipeline.runtime.project import REPORTS
from pipeline.runtime.stage_count import VARIABLE, begin
from stages import run

DVC = (sys.executable, "-m", "dvc")
STATUS = ("status", "--json", "--with-deps", "dvc.yaml")
COUNT = Path(".scratch/repro.json")


def main() -> None:
    changed = json.loads(ask(*STATUS))
    if "configure" in changed:
        print("The settings come first, on which the number of stages depends.", flush=True)
        dvc("repro", "configure")
        changed = json.loads(ask(*STATUS))
    if changed:
        edges = re.findall(r'"(.+)" -> "(.+)";', ask("dag", "--dot", "dvc.yaml"))
        print(f"{begin(COUNT, changed, edges)} stages to run at most", flush=True)
        dvc("repro", **{VARIABLE: str(COUNT.resolve())})
    else:
        print("Data and pipelines are up to date.")
    print(*closing_lines(read_json(REPORTS / "metrics.json"), REPORTS / "index.html"), sep="\n")


def ask(*arguments: str) -> str:
    """Return what a command of DVC prints; if it fails, end with its exit status."""
    done = subprocess.run([*DVC, *arguments], check=False, stdout=subprocess.PIPE, text=True)
    return done.stdout if done.returncode == 0 else sys.exit(done.returncode)


def dvc(*arguments: str, **environment: str) -> None:
    """Run a command of DVC, which gets a terminal's Ctrl-C itself; if it fails, end with its exit status."""
    with subprocess.Popen([*DVC, *arguments], env=os.environ | environment) as child:
        handlers = {signal.SIGINT: lambda *_: None, signal.SIGTERM: lambda *_: child.terminate()}
        before = {signum: signal.signal(signum, handler) for signum, handler in handlers.items()}
        code = child.wait()
    for signum, handler in before.items():
        signal.signal(signum, handler)
    if code:
        sys.exit(code if code > 0 else 128 - code)


if __name__ == "__main__":
    run(main)
