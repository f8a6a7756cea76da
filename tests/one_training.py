"""The stage pretrain of one cell in a temporary clone, with a state after every step: what it keeps and comes to."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from workspace import Workspace

from pipeline.settings.cells import merge

CELL = "digits--test_byobnet--lambda0.05--seed0"
CONFIGS = f"runs/default/configs/{CELL}"
COMMAND = [sys.executable, "-m", "stages.pretrain", f"{CONFIGS}/pretrain.json"]
STEPS = 60


def one_training(folder: Path, **pretrain) -> Workspace:
    """Return a clone in which `COMMAND` trains."""
    made = Workspace(folder)
    settings = {"epochs": 12, "checkpoint": {"minutes": 1e-6}, **pretrain}
    made.change_params({"pretrain": settings, "grid": {"backbones": ["test_byobnet"]}})
    made.run("dvc", "repro", "configure", "download@digits")
    return made


def execute(workspace: Workspace, **changes) -> None:
    """Change how the cell is trained, and not what."""
    path = workspace.root / CONFIGS / "execution.json"
    path.write_text(json.dumps(merge(json.loads(path.read_text()), changes)))


def taken(workspace: Workspace) -> dict[str, bytes]:
    """Return the results' bytes, and forget the states."""
    workspace.run("rm", "-rf", ".scratch/checkpoints")
    folder = workspace.root / "runs/default" / CELL / "pretrain"
    return {name: (folder / name).read_bytes() for name in ("backbone.safetensors", "history.csv", "metrics.json")}


def done(workspace: Workspace) -> int:
    """Return the steps of the newest state."""
    found = (workspace.root / ".scratch/checkpoints").rglob("step-*.pt")
    return max((int(path.name.split("-")[1]) for path in found), default=0)
