"""A temporary clone of the working tree with a miniature grid, and the commands that a person would type in it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from copy import copy
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
MINIATURE = {
    "grid": {"datasets": ["digits"], "backbones": ["test_byobnet", "test_vit"], "lambdas": [0.05], "seeds": [0]},
    "pretrain": {
        "epochs": 2,
        "batch_size": 256,
        "views": {"num_global": 2, "num_local": 1, "global_px": 32, "local_px": 16},
        "projector": {"hidden_dims": [32], "proj_dim": 16},
        "sigreg": {"num_slices": 32},
        "schedule": {"warmup_epochs": 0.5},
    },
    "density": {"sets": ["digits", "photo-patches"], "num_images": 20, "num_sketches": 4, "num_shown": 2, "k": 5},
    "pictures": {"num_images": 2, "num_neighbours": 2, "num_mapped": 100},
    "diagnose": {"num_draws": 200},
    "probe": {"linear": {"learning_rates": [0.01, 0.1], "epochs": 3}, "few_shot": {"shots": [1], "num_draws": 2}},
    "overrides": [
        {"when": {"backbone": "*vit*"}, "pretrain": {"backbone": {"patch_size": 8}}},
        {"when": {"dataset": "digits"}, "pretrain": {"views": {"flip_prob": 0.0}}},
    ],
}
TO_TABLES = ("configure", "download", "pretrain", "probe", "compare")


def wanted(name: str, paper: bool) -> bool:
    """Whether a file belongs into a clone that nothing has run in; the page needs the paper's overview."""
    if name.startswith("paper/"):
        return paper and not name.startswith("paper/reports/")
    return not name.startswith("reports/") or name == "reports/paper.md"


class Workspace:
    """A clone in a folder of its own, with its own git repository, DVC cache and MLflow store."""

    def __init__(self, folder: Path, *, paper: bool = False) -> None:
        """Copy what git would; the paper's pipelines if wanted."""
        self.root = folder
        listing = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
        for name in subprocess.run(listing, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines():
            if (ROOT / name).is_file() and Path(name).name != "dvc.lock" and wanted(name, paper):
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, folder / name)
        self.environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        self.change_params(MINIATURE)
        self.run("git", "init", "--quiet")
        self.run("git", "config", "user.name", "test")
        self.run("git", "config", "user.email", "test@localhost")
        self.commit("start")

    def commit(self, message: str) -> None:
        """Commit all that git does not ignore."""
        self.run("git", "add", "--all")
        self.run("git", "commit", "--quiet", "--allow-empty", "-m", message)

    def at(self, folder: Path) -> Workspace:
        """Return another clone as a workspace, as it is."""
        other = copy(self)
        other.root = folder
        return other

    def run(self, *command: str, code: int | None = 0) -> str:
        """Run a command in the clone and return what it printed; its exit status must be `code` (None: not 0)."""
        done = subprocess.run(
            command, cwd=self.root, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        as_told = done.returncode == code if code is not None else done.returncode != 0
        assert as_told, f"{' '.join(command)} exited with {done.returncode}:\n{done.stdout}"
        return done.stdout

    def repro(self, *arguments: str, project: str = ".") -> list[str]:
        """Run `dvc repro` in a project of the clone and return the names of the stages that ran."""
        lines = self.run("dvc", "--cd", project, "repro", *arguments).splitlines()
        return [line.split("'")[1] for line in lines if line.startswith("Running stage '")]

    def params(self) -> dict:
        """Return params.yaml as it stands."""
        return yaml.safe_load((self.root / "params.yaml").read_text(encoding="utf-8"))

    def change_params(self, change: dict) -> None:
        """Replace keys of params.yaml one level deep: whole values inside its sections."""
        params = self.params()
        for section, value in change.items():
            params[section] = {**params[section], **value} if isinstance(value, dict) else value
        (self.root / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")

    def keep_stages(self, *names: str) -> None:
        """Leave the stages that lead to the tables, and these of the others."""
        path = self.root / "dvc.yaml"
        pipeline = yaml.safe_load(path.read_text(encoding="utf-8"))
        pipeline["stages"] = {name: pipeline["stages"][name] for name in (*TO_TABLES, *names)}
        path.write_text(yaml.safe_dump(pipeline, sort_keys=False), encoding="utf-8")
