"""Claims: the README's table is the committed reports/comparison.csv; every file it names exists; every command it
gives for a stage is a program."""

from __future__ import annotations

import ast
import csv
import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SHOWN = ["linear_top1", "random_init_linear_top1", "knn_top1", "random_init_knn_top1"]
SHOWN += ["linear_top1_10shot", "random_init_linear_top1_10shot"]


def percent(row: dict[str, str], name: str) -> str:
    return f"{100 * float(row[name]):.1f}"


def test_table_is_the_committed_comparison():
    # Not the one that a `dvc repro` here has written since: another machine rounds in another way.
    shown = subprocess.run(["git", "show", "HEAD:reports/comparison.csv"], cwd=ROOT, capture_output=True, text=True)
    rows = list(csv.DictReader(shown.stdout.splitlines()))
    assert rows, shown.stderr
    (told,) = re.findall(r"^\| ([\w-]+), λ = ([\d.]+) \|", README, re.MULTILINE)
    rows = [row for row in rows if (row["dataset"], row["lambda"]) == told]
    assert rows, told
    for row in rows:
        line = " | ".join([row["backbone"], *(percent(row, name) for name in SHOWN)])
        assert f"| {line} |" in README
    pixels = [percent(rows[0], f"raw_pixels_{name}") for name in ("linear_top1", "knn_top1", "linear_top1_10shot")]
    assert f"| raw pixels | {pixels[0]} | | {pixels[1]} | | {pixels[2]} | |" in README


def test_readme_is_short():
    assert len(README.splitlines()) <= 150


def test_named_files_exist():
    named = set(re.findall(r"\]\(([\w./-]+)\)", README)) | set(
        re.findall(r"`((?:pipeline|tests|data)/[\w.]+\.py)`", README)
    )
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []


def test_every_room_has_its_line():
    layout = README[README.index("## Layout") : README.index("## Limits")].lower()
    for room in (ROOT / "pipeline").glob("*/__init__.py"):
        words = ast.get_docstring(ast.parse(room.read_text())).lower().rstrip(".")
        assert f"- `pipeline/{room.parent.name}/`: {words}\n" in layout


def test_stage_commands_are_programs():
    stages = re.findall(r"python -m stages\.(\w+)", README)
    assert stages and all((ROOT / f"stages/{stage}.py").exists() for stage in stages)
