"""Packed data sets as MLflow shows the inputs of a run: name, digest, counts, schema."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.runtime.files import read_json
from pipeline.schema.resolved import CellRun

# Of 64 hexadecimal digits; MLflow keeps at most 36.
DIGEST_LENGTH = 16


class DataSet(NamedTuple):
    """An input of a run; context says what it was for, the other fields are MLflow's, as JSON text."""

    name: str
    digest: str
    context: str
    source: str
    schema: str
    profile: str


def data_sets(run: CellRun, trained_on: Path | None, probed_on: Path) -> Iterator[DataSet]:
    """Return the packed sets of a cell that are on disk.

    Args:
        run: of the cell, which names them.
        trained_on: folder of the set of the pretraining; None: the weights were trained elsewhere.
        probed_on: folder of the set of the probe, often the same one.
    """
    folders = {probed_on: (run.target, "testing")}
    if trained_on:
        folders[trained_on] = (run.dataset, "training")
    for folder, (name, context) in folders.items():
        if (folder / "meta.json").exists():
            yield _data_set(name, context, folder, read_json(folder / "meta.json"))


def _data_set(name: str, context: str, folder: Path, meta: dict[str, Any]) -> DataSet:
    splits = meta["splits"]
    counts = {f"num_{split}": told["num_images"] for split, told in splits.items()}
    profile = {"num_rows": sum(counts.values()), **counts, "num_classes": len(meta["classes"])}
    source = {"uri": str(folder), "origin": meta["origin"]}
    texts = (json.dumps(value) for value in (source, _schema(meta), profile))
    return DataSet(name, digest(splits), context, *texts)


def digest(splits: dict[str, Any]) -> str:
    """Return the digest of a packed set: of the SHA-256 of its files, in the order of their names."""
    files = sorted((file["name"], file["sha256"]) for told in splits.values() for file in told["files"])
    return hashlib.sha256("".join(f"{name} {sha256}\n" for name, sha256 in files).encode()).hexdigest()[:DIGEST_LENGTH]


def _schema(meta: dict[str, Any]) -> dict[str, Any]:
    """Return images and labels as tensors of MLflow's schema; -1 stands for a size that differs."""
    sides = [low if low == high else -1 for low, high in (meta["height_px"], meta["width_px"])]
    shapes = {"image": ("uint8", [-1, meta["channels"], *sides]), "label": ("int64", [-1])}
    features, targets = (
        json.dumps([{"name": name, "type": "tensor", "tensor-spec": {"dtype": dtype, "shape": shape}}])
        for name, (dtype, shape) in shapes.items()
    )
    return {"mlflow_tensorspec": {"features": features, "targets": targets}}
