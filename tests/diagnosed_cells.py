"""Cells as pretrain and probe leave them, for tests of stages.diagnose: what is written, and where it is found."""

from __future__ import annotations

import json
from pathlib import Path

import yaml
from params_file import BASE

from pipeline.reports import selection_report
from pipeline.selection.correlation import entry_of, of_group
from pipeline.settings.cells import merge
from pipeline.settings.grid import open_listing
from pipeline.tracking import live_run
from stages import diagnose

ROOT = Path(__file__).parents[1]
OUT = Path("reports/diagnosis/default")
GRID = {
    "datasets": ["digits", "dtd"],
    "backbones": ["test_vit", "test_byobnet"],
    "lambdas": [0.02, 0.1],
    "seeds": [0, 1],
}
SLICES = {"values": [1.0, 2.0, 3.0], "null_mean": 1.05, "null_sd": 0.5, "null_q95": 2.1, "share_above": 1 / 3}
CLOUD = {"dim": 3, "spectrum": [2.0, 1.0, 0.5], "epps_pulley": {"raw": SLICES, "standardised": SLICES}}


class NullTracker:
    def tag_picks(self, grid, picked):
        return []


def enter(folder, monkeypatch, *, drawn=False):
    """Work in a repository of its own, without a store, and without charts, which take a second, if not `drawn`."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(live_run, "open_store", NullTracker)
    if not drawn:
        monkeypatch.setattr(diagnose.figures_selection, "charts", lambda *_, **__: {"criteria": "<svg/>"})
        monkeypatch.setattr(diagnose.figures_health, "charts", lambda cells: {"spectra-digits": "<svg/>"})
    Path("paper").mkdir()


def write_params(exponent=0.4, **grid):
    params = merge(BASE, {"grid": {**GRID, **grid}, "diagnose": {"num_draws": 100, "exponent": exponent}})
    Path("params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    return open_listing("params.yaml")


def put(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")


def write_cell(listing, cell, loss, accuracy, **criteria):
    """Write what pretrain and probe leave of a cell."""
    if not cell.frozen:
        out = listing.owners[cell].folder / "pretrain"
        put(out / "metrics.json", {"train_loss": loss, "pred_loss": loss / 2, "sigreg_loss": 3 * loss})
        put(out / "provenance.json", {"commit": "c0ffee", "hardware": {"device": "cpu", "cpu": "Abacus"}})
        put(out / "backbone.safetensors", f"weights of {cell.key}")
        columns = ("epoch", "loss", "pred_loss", "sigreg_loss", "lr", "projection_rank")
        put(out / "history.csv", f"{','.join(columns)}\n{','.join('1' for _ in columns)}\n")
    put(cell.folder / "probe/metrics.json", {"linear_top1": accuracy, "linear_holdout_top1": accuracy - 0.01})
    put(
        cell.folder / "probe/health.json",
        {"embedding": CLOUD, "projection": CLOUD, "criteria": {"rankme": accuracy, "lidar": None, **criteria}},
    )


def write_grid(listing, offset=0.0):
    """Within a data set accuracy falls with loss / lambda^0.4, from 0.9 on by 0.02."""
    for dataset in listing.params.grid.datasets:
        cells = [cell for cell in listing.cells if cell.dataset == dataset]
        for i, cell in enumerate(cells):
            write_cell(listing, cell, (1 + i / 10) * float(cell.lamb) ** 0.4, 0.9 - 0.02 * i - offset)


def table(out=OUT):
    return selection_report.read_table(out / "table.csv")


def entry(dataset="digits", name="train_loss", a=0.4, out=OUT):
    return entry_of(of_group(table(out), dataset), name, a)


def files(folder=OUT):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
