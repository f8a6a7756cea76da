"""Claims, for inputs that hypothesis makes up (the same ones every time):

1. Whatever a parameter file holds, it is valid or ends in a ParamsError; a valid one survives being written and read.
2. Whatever arrays an npz or HDF5 file holds, their pictures come back from the packed set as they were, or end in a
   UserError; a file damaged anywhere gives pictures or a UserError.
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
from source_helpers import entry, png, write_arrays

from pipeline.catalogue.validation import ParamsError
from pipeline.data.packed import PackedSplit
from pipeline.runtime.errors import UserError
from pipeline.settings.params import load_params
from pipeline.sources.download import download
from pipeline.sources.open import open_source
from pipeline.sources.packing import pack

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


# 2. Arrays

FLAWS = ["few", "sides", "channels", "type", "negative", "fractions", "uncounted"]
LABELS = [np.array(["a", "ü b"]), np.array([0, 1]), np.array([7, -3]), np.array([0.0, 2.0]), np.array([True, False])]


@st.composite
def stored_arrays(draw) -> tuple[dict[str, np.ndarray], dict[str, object]]:
    """Make up pictures and labels, half of them with a flaw, and the settings that describe them."""
    flaw = draw(st.sampled_from([*[None] * len(FLAWS), *FLAWS]))
    num_images, first = draw(st.integers(0, 3) if flaw == "few" else st.integers(8, 12)), draw(st.booleans())
    sides = [draw(st.integers(1, 5)) for _ in range(draw(st.sampled_from([1, 4])) if flaw == "sides" else 2)]
    channels = [2] if flaw == "channels" else draw(st.sampled_from([[], [1], [3], [4]]))
    shape = [num_images, *channels, *sides] if first else [num_images, *sides, *channels]
    random = np.random.default_rng(draw(st.integers(0, 99)))
    high = draw(st.sampled_from([1, 51, 255]))  # whose scale to 255 is exact
    pixels = random.uniform(-1 if flaw == "negative" else 0, high, shape)
    dtype = draw(st.sampled_from(["c8", "U2"] if flaw == "type" else ["u1", "u1", "i2", "u4", "f2", "f4", "f8", "u8"]))
    kind = np.array([0.5, 1]) if flaw == "fractions" else draw(st.sampled_from(LABELS))
    labels = kind[random.permutation(num_images + (flaw == "uncounted")) % 2]
    labels = labels[:, None] if draw(st.booleans()) else labels
    fields = {"channels_first": first, "max_value": high}
    return {"x_train": pixels if flaw == "negative" else pixels.astype(dtype), "y_train": labels}, fields


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


def expected(arrays: dict[str, np.ndarray], fields: dict[str, object]) -> np.ndarray:
    """Return the pictures as (N, C, H, W) of 0..255, by the plainest reading of the description."""
    pixels = arrays["x_train"].astype(float)
    if pixels.ndim == 3:
        pixels = pixels[:, None]
    elif not fields["channels_first"]:
        pixels = pixels.transpose(0, 3, 1, 2)
    return np.rint(pixels * 255 / fields["max_value"])


@pytest.mark.parametrize("suffix", [".npz", ".h5"])
def test_arrays_come_back_equal_or_are_refused(tmp_path, suffix):
    counts = {"packed": 0, "refused": 0}

    @settings(max_examples=80, **SAME)
    @given(made=stored_arrays())
    def one(made):
        arrays, fields = made
        path = tmp_path / f"arrays{suffix}"
        write_arrays(path, **arrays)
        try:
            source = open_source("x", entry(source="arrays", path=str(path), **fields), tmp_path / "scratch")
            pack(tmp_path / "set", "x", {}, source.classes, source.splits)
        except UserError as error:
            assert "x" in str(error)
            counts["refused"] += 1
            return
        counts["packed"] += 1
        images = [PackedSplit(tmp_path / "set", split, load_px=64) for split in ("train", "test")]
        wanted = expected(arrays, fields)
        assert sum(map(len, images)) == len(wanted)
        if wanted.shape[1] < 4:  # transparency is put on white
            got = [split[index][0].numpy() for split in images for index in range(len(split))]
            told = {picture.repeat(3 // len(picture), axis=0).astype(np.uint8).tobytes() for picture in wanted}
            assert {picture.repeat(3 // len(picture), axis=0).tobytes() for picture in got} == told

    one()
    assert min(counts.values()) >= 20, counts


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
