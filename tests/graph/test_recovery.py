"""MLflow, DVC and the files agree again after a loss, on a miniature grid in a temporary clone. Claims:

1. Four `dvc repro -s` of different cells at once, on a fresh database, all succeed, tried again where DVC's lock was
   taken; every cell has one finished run, and verify is green.
2. Deleting mlflow.db and running sync restores every run with the same params, metrics and tags; verify is green, and a
   second sync changes nothing.
3. A flipped bit in weights, a removed run and a wrong tag turn verify red; it names file, values and remedy.
"""

from __future__ import annotations

import sqlite3
import subprocess
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import chain

import pytest
from workspace import Workspace

pytestmark = pytest.mark.slow

CELLS = [f"digits-{backbone}-{lamb}-0" for backbone in ("test_byobnet", "test_vit") for lamb in (0.05, 0.5)]
KEY = "digits--test_vit--lambda0.5--seed0"
TABLES = {"params": "key, value", "metrics": "key, step, value", "tags": "key, value"}
LOCKED = "Unable to acquire lock"


def python(workspace: Workspace, stage: str, code: int = 0) -> str:
    return workspace.run("python", "-m", f"stages.{stage}", code=code)


def verify(workspace: Workspace) -> list[str]:
    """Return what verify names, after a look at its exit status."""
    done = subprocess.run(
        ["python", "-m", "stages.verify"], cwd=workspace.root, env=workspace.environment, capture_output=True, text=True
    )
    found = done.stderr.splitlines()
    assert f"{len(found)} disagreements" in done.stdout and done.returncode == bool(found), done.stdout + done.stderr
    return found


def rows(workspace: Workspace, query: str) -> list[tuple]:
    with closing(sqlite3.connect(workspace.root / "mlflow.db")) as connection:
        return connection.execute(query).fetchall()


def change(workspace: Workspace, statement: str) -> None:
    with closing(sqlite3.connect(workspace.root / "mlflow.db")) as connection:
        connection.execute(statement)
        connection.commit()


def held(workspace: Workspace) -> dict[str, list[tuple]]:
    """Return {run name: everything that its active run holds}; fails where a cell has two."""
    runs = rows(workspace, "SELECT name, run_uuid, status FROM runs WHERE lifecycle_stage = 'active'")
    assert len({name for name, *_ in runs}) == len(runs) == 4 and {status for *_, status in runs} == {"FINISHED"}
    queries = {name: f"SELECT {columns} FROM {name} WHERE run_uuid =" for name, columns in TABLES.items()}
    found = {name: [rows(workspace, f"{query} '{run}'") for query in queries.values()] for name, run, _ in runs}
    for _, points, _ in found.values():
        assert max(Counter((key, step) for key, step, _ in points).values()) == 1
    return {name: sorted(chain.from_iterable(lists)) for name, lists in found.items()}


def everything(workspace: Workspace) -> list[str]:
    with closing(sqlite3.connect(workspace.root / "mlflow.db")) as connection:
        return list(connection.iterdump())


def repro_at_once(workspace: Workspace, stages: list[str]) -> int:
    """Run `dvc repro -s` of several stages at once and return how often DVC's lock was taken."""

    def repro(stage: str) -> int:
        for attempt in range(60):
            done = subprocess.run(
                ["dvc", "repro", "--single-item", stage],
                cwd=workspace.root, env=workspace.environment, capture_output=True, text=True,
            )  # fmt: skip
            if done.returncode == 0:
                assert "tracking stopped" not in done.stdout + done.stderr
                return attempt
            assert LOCKED in done.stdout + done.stderr, done.stdout + done.stderr
            time.sleep(1)
        raise AssertionError(f"{stage}: DVC's lock was never free")

    with ThreadPoolExecutor(len(stages)) as together:
        return sum(together.map(repro, stages))


@pytest.fixture(scope="module")
def workspace(tmp_path_factory) -> Workspace:
    """A grid that ran four cells at once, without the stages that track nothing of their own."""
    made = Workspace(tmp_path_factory.mktemp("work"))
    made.change_params({"grid": {"lambdas": [0.05, 0.5]}})
    made.keep_stages("diagnose")
    made.repro("download@digits", "configure")
    assert not (made.root / "mlflow.db").exists()
    tried_again = repro_at_once(made, [f"pretrain@{cell}" for cell in CELLS])
    tried_again += repro_at_once(made, [f"probe@{cell}" for cell in CELLS])
    print(f"DVC's lock was taken {tried_again} times")
    assert sorted(made.repro()) == ["compare", "diagnose"], "the eight stages are in dvc.lock"
    return made


@pytest.mark.core
def test_four_cells_at_once_on_a_fresh_database(workspace):
    assert len(held(workspace)) == 4 and verify(workspace) == []


@pytest.mark.core
def test_a_lost_store_is_restored(workspace):
    before = held(workspace)
    (workspace.root / "mlflow.db").unlink()  # its journal stays
    python(workspace, "sync")
    assert held(workspace) == before and verify(workspace) == []
    store, table = everything(workspace), (workspace.root / "reports/comparison.csv").read_bytes()
    assert "written" not in python(workspace, "sync")
    assert everything(workspace) == store and (workspace.root / "reports/comparison.csv").read_bytes() == table


def test_damage_of_files_table_and_store_is_named_and_mended(workspace):
    """Each kind of disagreement by itself: tests/tracking/test_tracking.py, tests/core/test_results.py."""
    folder = f"runs/default/{KEY}"
    weights = workspace.root / folder / "pretrain/backbone.safetensors"
    bits = weights.read_bytes()
    weights.write_bytes(bits[:-1] + bytes([bits[-1] ^ 1]))
    found = "\n".join(verify(workspace))
    assert f"{folder}/probe was made from {folder}/pretrain/backbone.safetensors with md5" in found
    assert f"restore it with: dvc checkout --force {folder}/pretrain, or make it again with: dvc repro" in found
    workspace.run("dvc", "checkout", "--force", f"{folder}/pretrain")
    removed = "digits--test_byobnet--lambda0.5--seed0"
    change(workspace, f"UPDATE runs SET lifecycle_stage = 'deleted' WHERE name = '{removed}'")
    change(workspace, "UPDATE tags SET value = 'abc' WHERE key = 'commit'")
    found = "\n".join(verify(workspace))
    for said in (
        f"{KEY}: tag commit is abc in MLflow but",
        f"{removed}: 0 MLflow runs instead of one; run: python -m stages.sync params.yaml",
        f"{removed}: comparison.csv names run ",
    ):
        assert said in found, found
    python(workspace, "sync")  # writes the table anew too, since it names a run that is gone
    assert verify(workspace) == [] and len(held(workspace)) == 4
