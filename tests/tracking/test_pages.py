"""Claims about MLflow's own pages, in a headless Chromium, as `make ui` shows them:

1. The prepared view is named in the menu and shows dataset, backbone, objective, lambda, seed, losses and accuracies of
   every cell, and charts of accuracy against lambda, the loss curves of all, and parallel coordinates.
2. Comparing four runs shows lambda, losses and accuracies beside each other; a run shows its data set, row and weights.
3. Pages of a version that nobody looked at are the plain ones, with a word.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from cell_record import LOSSES, finished
from stores import new_store

from pipeline.tracking.run_inputs import DataSet
from pipeline.tracking.saved_view import NAME, SEEN, addresses
from pipeline.tracking.store import Store

ROOT = Path(__file__).parents[2]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
WAIT_MS = 240_000
LAMBDAS = ("0.02", "0.05", "0.1", "0.5")

seen = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium")


def cell(index: int, lamb: str, folder: Path):
    metrics = {point: value * (1 + index / 10) for point, value in finished().metrics.items()}
    metrics |= {("probe/linear_top1", 0): 0.5 + index / 10, ("pretrain/train_loss", 0): 0.25}
    weights = folder / "backbone.safetensors"
    weights.write_bytes(b"weights")
    return replace(
        finished(),
        cell=f"digits--vit--lambda{lamb}--seed0",
        params=finished().params | {"lambda": lamb},
        metrics=metrics,
        artifacts=finished().artifacts | {weights.name: weights, "model_summary.txt": "one tensor\n"},
        inputs=(DataSet("digits", "0123abcd", "training", "{}", "{}", '{"num_rows": 40}'),),
    )


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Address of the pages and {lambda: run id} of four runs."""
    folder = tmp_path_factory.mktemp("clone")
    store = Store(new_store(folder))
    ids = {lamb: store.publish(cell(index, lamb, folder)) for index, lamb in enumerate(LAMBDAS)}
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    environment = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    command = [sys.executable, "-m", "stages.ui", port]
    with (
        (folder / "told").open("w") as told,
        subprocess.Popen(command, cwd=folder, env=environment | {"PYTHONPATH": str(ROOT)}, stdout=told) as server,
    ):
        deadline = time.monotonic() + 300
        while "charts: " not in (said := (folder / "told").read_text()):
            assert server.poll() is None and time.monotonic() < deadline, "the pages did not start"
            time.sleep(0.5)
        views = [line.partition(": ")[2].split()[0] for line in said.splitlines() if "viewStateShareKey" in line]
        yield views, ids
        server.send_signal(signal.SIGTERM)


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])


@pytest.fixture
def page(browser):
    opened = browser.new_page(viewport={"width": 3200, "height": 1400})
    opened.set_default_timeout(WAIT_MS)
    yield opened
    opened.close()


def go(page, address: str, text: str) -> None:
    page.goto(address, wait_until="commit")
    page.get_by_text(text).first.wait_for()


@seen
@pytest.mark.slow
def test_the_runs_table_shows_every_cell(runs, page):
    (table, _), _ = runs
    go(page, table, "matching runs")
    page.get_by_text(NAME[:20]).first.wait_for()
    page.locator("[role=columnheader]", has_text="probe/linear_top1").first.wait_for()
    header = page.locator("[role=columnheader]").all_inner_texts()
    names = ["dataset", "backbone", "objective", "lambda", "seed", "probe/linear_top1", "probe/knn_top1", "train/loss"]
    assert [name for name in dict.fromkeys(text.strip() for text in header) if name in names] == names
    page.wait_for_function("document.querySelectorAll('[role=row][row-index=\"3\"]').length > 0")
    for place, index in enumerate((3, 2, 1, 0)):  # the best linear accuracy first
        row = " ".join(page.locator(f'[role=row][row-index="{place}"]').all_inner_texts()).split()
        wanted = ["digits", "vit", "lejepa", LAMBDAS[index], "0", f"{0.5 + index / 10:.1f}"]
        assert set(wanted) <= set(row), row
        loss = finished().metrics["train/loss", 2] * (1 + index / 10)
        numbers = [float(value) for value in row if re.fullmatch(r"[\d.]+", value)]
        assert any(value == pytest.approx(loss) for value in numbers), row


@seen
@pytest.mark.slow
def test_the_charts_show_accuracies_and_curves(runs, page):
    (_, charts), _ = runs
    go(page, charts, "Loss curves")
    for section in ("Accuracy against lambda", "Axes, losses and accuracies"):
        page.get_by_text(section).first.wait_for()
    curves = "p => new Set((p.data || []).filter(t => t.x && t.x.length == 2).map(t => t.name)).size"
    plots = "[...document.querySelectorAll('.js-plotly-plot')]"
    page.wait_for_function(f"{plots}.map({curves}).filter(n => n == 4).length >= 3")
    drawn = page.evaluate(f"{plots}.map(p => p.data.map(t => [...(t.y || [])]))")
    losses = [y for plot in drawn for y in plot if len(y) == 2]
    wanted = [finished().metrics["train/loss", step] for step in (1, 2)]
    for index in range(len(LAMBDAS)):
        assert any(y == pytest.approx([value * (1 + index / 10) for value in wanted]) for y in losses)


@seen
@pytest.mark.slow
def test_four_runs_are_compared_and_one_is_shown(runs, page):
    (table, _), ids = runs
    pages = table.partition("#")[0]
    chosen = json.dumps([*ids.values()])
    go(page, f'{pages}#/compare-runs?runs={chosen}&experiments=["1"]', "Comparing 4 Runs")
    page.get_by_text("probe/linear_top1").first.wait_for()
    text = page.inner_text("body")
    assert all(lamb in text for lamb in LAMBDAS) and all(f"train/{name}" in text for name in LOSSES)
    go(page, f"{pages}#/experiments/1/runs/{ids['0.1']}", "top-1 in %")
    page.get_by_text("0123abcd").first.wait_for()
    go(page, f"{pages}#/experiments/1/runs/{ids['0.1']}/artifacts", "backbone.safetensors")
    page.get_by_text("model_summary.txt").first.wait_for()


def test_another_version_has_its_plain_page():
    assert addresses("http://here", "1", f"{SEEN[-1]}.0").startswith(
        "http://here/#/experiments/1/runs?viewStateShareKey="
    )
    plain = addresses("http://here", "1", "4.0.1")
    assert "viewStateShareKey" not in plain and "MLflow 4.0.1 was not tried with the prepared view" in plain
