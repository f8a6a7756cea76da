"""Claims: every example runs as it stands and prints sound numbers; pages of the public API are built
from the docstrings."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def numbers(text: str, name: str) -> list[float]:
    return [float(found) for found in re.findall(rf"{name} (-?[\d.]+)", text)]


def run(*command: str) -> str:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.getenv("PYTHONPATH")])])}
    done = subprocess.run([sys.executable, *command], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_plain_pytorch(capsys):
    runpy.run_path(str(ROOT / "examples/plain_pytorch.py"))
    losses = numbers(capsys.readouterr().out, "loss")
    assert len(losses) == 4 and all(0 < loss < 10 for loss in losses)


def test_evaluate_embeddings(capsys):
    runpy.run_path(str(ROOT / "examples/evaluate_embeddings.py"))
    told = capsys.readouterr().out
    assert numbers(told, "linear")[0] > 0.9 and numbers(told, "k-NN")[0] > 0.9 and numbers(told, "1-shot")[0] > 0.2
    assert 1 < numbers(told, "RankMe")[0] <= 64 and numbers(told, "Epps-Pulley")[0] > 0


@pytest.mark.slow
def test_lightning():
    pytest.importorskip("lightning", reason="pip install '.[lightning]'")
    assert 0 < numbers(run("examples/lightning_module.py"), "loss")[-1] < 10


@pytest.mark.slow
def test_pages_of_the_public_api_are_built(tmp_path):
    pytest.importorskip("pdoc", reason="pip install '.[dev]'")
    run("-m", "pdoc", "--output-directory", str(tmp_path), "pipeline.losses", "pipeline.data.views", "pipeline.probing")
    page = (tmp_path / "pipeline/losses.html").read_text(encoding="utf-8")
    assert "lejepa_loss" in page and "random_directions" in page
    assert "evaluate" in (tmp_path / "pipeline/probing.html").read_text(encoding="utf-8")
