"""Claims about the run cache on its way between machines that share an object store:

1. Another machine takes results from there and runs nothing.
2. Of the cache only what the other side lacks is asked for or sent, however many entries there are.
3. Results are sent before the entry that names them; one whose results are gone is left out.
4. A remote that keeps no run cache is refused by name.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from copy import copy
from pathlib import Path

import pytest
from object_store import BUCKET, ObjectStore, object_store
from small_pipeline import SmallPipeline

from pipeline.launch.remote import check_remote
from pipeline.runtime.errors import UserError

pytestmark = pytest.mark.slow
CELLS = "abc"
STAGES = 2 + 2 * len(CELLS)
DVC = "python", "-m", "pipeline.launch.run_cache"


@pytest.fixture
def store(tmp_path) -> Iterator[ObjectStore]:
    with object_store(tmp_path) as running:
        yield running


@pytest.fixture
def place(tmp_path) -> SmallPipeline:
    (tmp_path / "here").mkdir()
    return SmallPipeline(tmp_path / "here", cells=CELLS)


def elsewhere(place: SmallPipeline) -> SmallPipeline:
    """A machine that has nothing but the repository."""
    there = copy(place)
    there.root = place.root.with_name("there")
    made = shutil.ignore_patterns("cache", "tmp", "out", "prepared.txt", "total.txt", "dvc.lock")
    shutil.copytree(place.root, there.root, ignore=made)
    return there


def entries_asked(store: ObjectStore, place: SmallPipeline, *command: str) -> tuple[list[str], str]:
    """Run DVC; return how it asked the store for entries of the run cache, GET or PUT, and what it printed."""
    before = len(store.requests())
    printed = place.run(*DVC, *command)
    asked = [line.partition(" ")[0] for line in store.requests()[before:] if f"/{BUCKET}/dvc/runs/" in line]
    return [method for method in asked if method != "HEAD"], printed


def test_what_the_other_side_has_does_not_travel(store, place):
    store.add_to(place)
    place.run(*DVC, "repro")
    assert entries_asked(store, place, "push", "--run-cache")[0] == ["PUT"] * STAGES
    there = elsewhere(place)
    asked, printed = entries_asked(store, there, "repro", "--pull")
    assert asked == ["GET"] * STAGES
    assert "Running stage" not in printed and there.total() == place.total()
    assert entries_asked(store, there, "repro", "--pull")[0] == []
    assert entries_asked(store, there, "push", "--run-cache")[0] == []

    (there.root / "seed.txt").write_text("another\n", encoding="utf-8")
    there.run(*DVC, "repro", "--single-item", "prepare")
    assert entries_asked(store, there, "push", "--run-cache", "prepare")[0] == ["PUT"]


def files(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file()}


def test_an_entry_comes_after_its_results(place, tmp_path):
    remote, cache = tmp_path / "remote", place.root / ".dvc/cache"
    place.run("dvc", "remote", "add", "--default", "shared", str(remote))
    place.run(*DVC, "repro", "--single-item", "prepare")
    remote.mkdir()
    (remote / "runs").write_text("no folder", encoding="utf-8")
    assert "runs" in place.run(*DVC, "push", "--run-cache", "prepare", code=255)
    assert len(files(remote / "files")) == 1, "what `prepare` made is there all the same"

    (remote / "runs").unlink()
    place.run(*DVC, "repro", "--single-item", "work@a")
    made = (place.root / "out/a.txt").read_bytes()
    (cached,) = [path for path in files(cache / "files") if path.read_bytes() == made]
    cached.unlink()
    place.run(*DVC, "push", "--run-cache", "prepare")
    assert len(files(remote / "runs")) == 1 < len(files(cache / "runs"))


@pytest.mark.parametrize(
    ("option", "value", "named"), [("url", "http://host/results", "http://host"), ("worktree", "true", "worktree")]
)
def test_a_remote_without_a_run_cache_is_refused(option, value, named, place, monkeypatch):
    monkeypatch.chdir(place.root)
    place.run("dvc", "remote", "add", "--default", "shared", "s3://results/dvc")
    place.run("dvc", "remote", "modify", "shared", option, value)
    with pytest.raises(UserError, match=f"--remote shared: DVC keeps no run cache with {named}"):
        check_remote("shared", "ray")
