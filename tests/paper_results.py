"""A small pipeline of the paper with made-up results, in the working directory (always a temporary folder)."""

from __future__ import annotations

import json
from pathlib import Path

import yaml
from params_file import BASE

from pipeline.settings.cells import Cell, merge
from pipeline.settings.dvc_graph import cells_text
from pipeline.settings.grid import Listing, open_listing

REPORT = {"title": "Table 0: a test", "claim": "Small sets suffice", "decimals": 1}


def write_pipeline(folder: str, published: str, grid: dict | None = None, **sections: dict) -> Listing:
    """Write params.yaml, published.csv and cells.yaml; digits and dtd are the data sets."""
    home = Path(folder)
    home.mkdir(parents=True, exist_ok=True)
    params = merge(BASE, {"grid": grid or {}, "report": REPORT, **sections})
    (home / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    (home / "published.csv").write_text(published, encoding="utf-8")
    listing = open_listing(home / "params.yaml", whole=True)
    (home / "cells.yaml").write_text(cells_text(listing), encoding="utf-8")
    return listing


def write_result(listing: Listing, cell: Cell, top1: float, **metrics: float) -> None:
    """Write what pretrain, probe and download leave for one cell; digits have 1,438 + 400 images, dtd 1,880 + 1,880."""
    probe = {"linear_top1": top1, "random_init_linear_top1": 0.5, "raw_pixels_linear_top1": 0.4, **metrics}
    write_json(cell.folder / "probe/metrics.json", probe)
    counts = {"digits": (1438, 400), "dtd": (1880, 1880)}[cell.probed_on]
    splits = {name: {"num_images": count} for name, count in zip(("train", "test"), counts, strict=True)}
    write_json(Path("data") / cell.probed_on / "meta.json", {"splits": splits})
    if not cell.frozen:
        made = listing.owners[cell].folder / "pretrain"
        write_json(made / "metrics.json", {"num_images": 1438})
        write_json(made / "provenance.json", {"commit": "c0ffee", "hardware": {"device": "cpu", "cpu": "Abacus"}})


def write_json(path: Path, value: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")
