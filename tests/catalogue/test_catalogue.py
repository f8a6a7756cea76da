"""Claims: every entry of the catalogue in params.yaml is valid and fits the installed torchvision; a name that would
break DVC paths or cell keys, a URL without a checksum, a path that leaves its folder and every other broken rule is
refused with a message that says what to do; the key of the raw files changes with the bytes fetched and with nothing
else."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import TypeAdapter, ValidationError

from pipeline.catalogue.datasets import Dataset, check_name, load_catalogue, transfer_key
from pipeline.sources.torchvision_sets import check_arguments, find_class

ENTRY = TypeAdapter(Dataset)
PARAMS = Path(__file__).parents[2] / "params.yaml"
SHA = "a" * 64


def entry(**fields):
    return ENTRY.validate_python(fields)


@pytest.mark.parametrize(
    "name",
    ["", "a--b", "-a", "../a", "a b", "a.b", "bundled", "inputs", "é", "a\n"],
)
def test_bad_names(name):
    with pytest.raises(ValueError, match=r"must be letters|is taken"):
        check_name(name)


WRONG = {
    "photographs without patches": (dict(source="sklearn", dataset="sample_images"), "patch_px is required .* 32"),
    "digits in patches": (dict(source="sklearn", patch_px=4), "greater than or equal to 8"),
    "no origin": (dict(source="folder"), "exactly one of path"),
    "two origins": (dict(source="folder", path="x", url="http://x/y.zip", sha256=SHA), "exactly one of path"),
    "absolute folder": (dict(source="folder", path="x", test="/y"), "subfolder"),
    "same folder": (dict(source="folder", path="x", train="a", test="a"), "same folder"),
    "half a test pair": (dict(source="arrays", path="x", test_images="x_test"), "together"),
    "torchvision root": (dict(source="torchvision", dataset="CIFAR10", train={"root": "/"}, test=None), "train.root"),
    "by_hand without files": (
        dict(source="torchvision", dataset="X", test=None, by_hand={"what": "a", "from": "b", "path": "c"}),
        "files",
    ),
    "repo and path": (dict(source="huggingface", repo="a/b", path="x/{split}.parquet"), "exactly one of repo"),
    "glob without split": (dict(source="huggingface", path="x/*.parquet"), "{split}"),
    "same splits": (dict(source="huggingface", repo="a/b", splits={"train": "x", "test": "x"}), "same split"),
}


@pytest.mark.parametrize("fields, message", WRONG.values(), ids=WRONG)
def test_wrong_entries(fields, message):
    with pytest.raises(ValidationError, match=message.replace("{", r"\{").replace("}", r"\}")):
        entry(**fields)


def test_torchvision_entries_fit_the_installed_torchvision():
    entries = [e for e in load_catalogue(PARAMS).values() if e.source == "torchvision"]
    assert len(entries) >= 10
    for e in entries:
        for split in ("train", "test"):
            check_arguments(find_class(e.dataset), split, getattr(e, split))


def test_transfer_key_follows_the_bytes():
    first = entry(source="arrays", url="https://x/y.npz", sha256=SHA)
    assert transfer_key(first) == transfer_key(first.model_copy(update={"test_frac": 0.5, "images": "z"}))
    assert transfer_key(first) != transfer_key(first.model_copy(update={"url": "https://x/z.npz"}))
