"""A small params.yaml to change, which the tests of settings and of cells share."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from pipeline.catalogue.validation import ParamsError
from pipeline.settings.cells import merge
from pipeline.settings.params import load_params

BASE = {
    "grid": {"datasets": ["digits"], "backbones": ["test_vit"], "lambdas": [0.05], "seeds": [0]},
    "datasets": {"digits": {"source": "sklearn"}, "dtd": {"source": "bundled"}},
    "pretrain": {"epochs": 20, "batch_size": 64},
}


def written(path: Path, change: dict | None = None) -> Path:
    path.write_text(yaml.safe_dump(merge(BASE, change or {})), encoding="utf-8")
    return path


def load(tmp_path, change=None):
    return load_params(written(tmp_path / "params.yaml", change))


def problems(path: Path) -> list[str]:
    with pytest.raises(ParamsError) as caught:
        load_params(path)
    assert str(path) in str(caught.value)
    assert all(f"  - {problem}" in str(caught.value) for problem in caught.value.problems)
    return caught.value.problems
