"""One store for the tests of a file, without runs: MLflow takes a second or two to open one that it does not know."""

from __future__ import annotations

from pathlib import Path

import pytest
from stores import new_store

from pipeline.tracking.store import Store


@pytest.fixture(scope="module")
def store_path(tmp_path_factory) -> Path:
    return new_store(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def opened(store_path) -> Store:
    return Store(store_path)


@pytest.fixture
def store(opened) -> Store:
    for run in opened.client.search_runs([opened.experiment_id]):
        opened.client.delete_run(run.info.run_id)
    return opened
