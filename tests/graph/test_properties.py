"""Claims, for inputs that hypothesis makes up (the same ones every time):

1. Whatever a parameter file holds, it is valid or ends in a ParamsError; a valid one survives being written and read.
2. A file of arrays or parquet that is damaged anywhere gives pictures or a UserError.
"""

from __future__ import annotations

import copy
from contextlib import suppress
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from params_file import BASE
from source_helpers import entry, png

from pipeline.catalogue.validation import ParamsError
from pipeline.runtime.errors import UserError
from pipeline.settings.params import load_params
from pipeline.sources.download import download

pytestmark = pytest.mark.seconds

SAME = {
    "derandomize": True,
    "deadline": None,
    "database": None,
    "suppress_health_check": [HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
}

# 1. params.yaml

PLAIN = st.none() | st.booleans() | st.integers(-3, 10**12) | st.floats() | st.text(max_size=6) | st.dates()
JUNK = st.recursive(
    PLAIN, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(PLAIN, inner, max_size=3), max_leaves=8
)
WHOLE = {
    **copy.deepcopy(BASE),
    "probe": {"knn": {"k": 5}, "linear": {"learning_rates": [0.1]}, "few_shot": {"shots": [1]}},
    "models": {"m": {"backbone": "test_vit", "random_init": True, "kwargs": {"a": 1}}},
    "overrides": [{"when": {"dataset": "d*", "axes": {"t": "1"}}, "pretrain": {"views": {"hue": 0.2}}}],
    "density": {"sets": ["digits"]},
    "report": {"title": "x"},
}
WHOLE["grid"]["axes"] = {"t": {"sets": ["pretrain.sigreg.t_max"], "values": [1.0, 2]}}
WHOLE["datasets"]["h"] = {"source": "huggingface", "repo": "a/b", "splits": {"train": "x", "test": None}}


def places(value: object, path: tuple = ()) -> list[tuple]:
    """Return the paths of everything inside a document."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, part in inner for place in places(part, (*path, key)))]


def replaced(document: object, path: tuple, value: object) -> object:
    if not path:
        return value
    out = copy.copy(document)
    out[path[0]] = replaced(document[path[0]], path[1:], value)
    return out


def read_back(path: Path) -> object:
    """Read a file that may be valid; a valid one must survive being written and read."""
    try:
        params = load_params(path)
    except ParamsError as error:
        assert error.problems and all(problem.strip() for problem in error.problems)
        return None
    told = params.model_dump(mode="json", by_alias=True)
    path.write_text(yaml.safe_dump(told, allow_unicode=True), encoding="utf-8")
    assert load_params(path) == params
    return params


@settings(max_examples=40, **SAME)
@given(change=st.data())
def test_any_junk_anywhere_is_valid_or_a_params_error(tmp_path, change):
    document = replaced(WHOLE, change.draw(st.sampled_from(places(WHOLE))), change.draw(JUNK))
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(document, allow_unicode=True), encoding="utf-8")
    read_back(path)


@settings(max_examples=40, **SAME)
@given(text=st.text(max_size=40) | st.text("[]{}:,-&*!|>'\"# \n0ae.", max_size=30) | JUNK.map(yaml.safe_dump))
def test_any_text_is_valid_or_a_params_error(tmp_path, text):
    path = tmp_path / "params.yaml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    read_back(path)


# 2. Files


def save_for_harm(path: Path) -> None:
    """Write a small set in each format, compressed where the format knows how."""
    pixels, labels = np.random.default_rng(0).integers(0, 9, (4, 3, 3), dtype=np.uint8), [0, 1, 0, 1]
    if path.suffix == ".npz":
        np.savez_compressed(path, x_train=pixels, y_train=labels)
    elif path.suffix == ".h5":
        path.unlink(missing_ok=True)
        with h5py.File(path, "w") as file:
            file.create_dataset("x_train", data=pixels, compression="gzip")
            file.create_dataset("y_train", data=labels, compression="gzip", fletcher32=True)
    else:
        images = [{"bytes": png(index, 3, 3), "path": None} for index in range(4)]
        pq.write_table(pa.table({"image": images, "label": labels}), path)


@settings(max_examples=40, **SAME)
@given(suffix=st.sampled_from([".npz", ".h5", ".parquet"]), where=st.floats(0, 1, exclude_max=True), data=st.binary())
def test_damaged_files_are_read_or_refused(tmp_path, suffix, where, data):
    path = tmp_path / f"arrays{suffix}"
    save_for_harm(path)
    raw = path.read_bytes()
    start = int(where * len(raw))
    path.write_bytes(raw[:start] + data + raw[start + len(data) :] if data else raw[:start])
    fields = {"source": "huggingface", "splits": {"test": None}} if suffix == ".parquet" else {"source": "arrays"}
    with suppress(UserError):
        download("x", entry(path=str(path), **fields), tmp_path / "set")
