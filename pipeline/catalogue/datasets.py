"""The data set catalogue: one pydantic model per `source` of an entry under `datasets:` in params.yaml.

Nothing here touches the disk, the network or torch, so every stage can afford to load it.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import parse_qsl, urlsplit

from pydantic import AfterValidator, Field, TypeAdapter, ValidationError, model_validator

from pipeline.catalogue.validation import ParamsError, Strict, explain, read_yaml

UNVERIFIED = "unverified"
"""The word to write in place of a sha256 when a URL is trusted without one; every use of it is warned about."""

SPLITS = ("train", "test")
RESERVED_NAMES = ("bundled", "by-hand", "foreign", "inputs")  # folders of data/ that are not packed data sets
# No dot (DVC reads it as nesting in a params path), no slash or space (paths, stage names), no '--' (joins cell keys).
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_]*(-[A-Za-z0-9_]+)*")
_SECRET = re.compile(r"token|secret|password|passwd|signature|credential|api_?key|^(key|sig|auth)$", re.IGNORECASE)
_FILLED_IN = ("root", "download", "loader", "transform", "target_transform", "transforms")


def check_name(name: str) -> str:
    """Return `name` if it can name a data set or a model (a folder, a part of DVC stage names and of cell keys).

    Raises:
        ValueError: not letters, digits and `_` joined by single `-`, or a reserved name.
    """
    if not _NAME.fullmatch(name):
        raise ValueError(f"name {name!r} must be letters, digits and '_' joined by '-', as in my-set_2")
    if name in RESERVED_NAMES:
        raise ValueError(f"name {name!r} is taken by the folder data/{name}; choose another one")
    return name


def _check_url(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"must be an http:// or https:// address, got {url!r}")
    if parts.password or parts.username:
        raise ValueError("must not hold a user name or password: params.yaml is committed")
    keys = [key.replace("-", "_") for key, _ in parse_qsl(parts.query, keep_blank_values=True)]
    if secrets := [key for key in keys if _SECRET.search(key)]:
        raise ValueError(
            f"must not hold a secret, as {secrets[0]!r} after the question mark seems to be: params.yaml is committed; "
            "fetch the file by hand and give its path"
        )
    return url


def _check_sha256(value: str) -> str:
    if value != UNVERIFIED and not re.fullmatch(r"[0-9a-f]{64}", value.lower()):
        raise ValueError(
            f"must be 64 hexadecimal digits (sha256sum FILE prints them), "
            f"or {UNVERIFIED!r} to trust whatever comes; got {value!r}"
        )
    return value.lower()


DatasetName = Annotated[str, AfterValidator(check_name)]
_Url = Annotated[str, AfterValidator(_check_url)]
_Sha256 = Annotated[str, AfterValidator(_check_sha256)]
_NonEmpty = Annotated[str, Field(min_length=1)]


class _Entry(Strict):
    test_frac: float = Field(
        0.2, gt=0, lt=1, description="Fraction of each class held out as test where the source has no test split"
    )
    split_seed: int = Field(0, ge=0, lt=2**32, description="Seed of that stratified split")


class _File(_Entry):
    path: _NonEmpty | None = Field(
        None, description="Local file or folder, absolute or relative to the repository root"
    )
    url: _Url | None = Field(None, description="http(s) address of the file; needs sha256")
    sha256: _Sha256 | None = Field(None, description=f"Checksum of the file, 64 hex digits; '{UNVERIFIED}' accepts any")

    @model_validator(mode="after")
    def _one_origin(self) -> _File:
        if (self.path is None) == (self.url is None):
            raise ValueError("needs exactly one of path (local) and url (download)")
        if self.url and not self.sha256:
            raise ValueError(f"needs sha256 beside url: 64 hex digits, or '{UNVERIFIED}' to trust whatever comes")
        return self


class Bundled(_Entry):
    """A set that comes with the repository: data/bundled/<name>.npz."""

    source: Literal["bundled"]
    sha256: _Sha256 | None = Field(None, description="Checksum of the npz; DVC packs anew when it changes here")


class Sklearn(_Entry):
    """Pictures inside scikit-learn itself (no download)."""

    source: Literal["sklearn"]
    dataset: Literal["digits", "sample_images"] = Field(
        "digits",
        description="'digits': sklearn.datasets.load_digits, 1797 grey 8 x 8 pictures; 'sample_images': patches of "
        "load_sample_images, two colour photographs of 640 x 427, each a class, the right test_frac of it for testing",
    )
    patch_px: int | None = Field(None, ge=8, le=213, description="Side of the square patches of 'sample_images', px")

    @model_validator(mode="after")
    def _patches_of_photographs(self) -> Sklearn:
        if self.dataset == "sample_images" and self.patch_px is None:
            raise ValueError("patch_px is required for dataset 'sample_images', got null; add it, as patch_px: 32")
        if self.dataset != "sample_images" and self.patch_px is not None:
            raise ValueError(f"patch_px is for dataset 'sample_images' alone, got {self.patch_px}; remove it")
        return self


class ByHand(Strict):
    """What a person must fetch, because its owner wants a registration or a click."""

    what: _NonEmpty = Field(description="What to fetch, in words")
    origin: _NonEmpty = Field(alias="from", description="Where it can be had, usually an address")
    path: _NonEmpty = Field(description="Folder to put it in, absolute or relative to the repository root")
    files: list[_NonEmpty] = Field(min_length=1, description="Names of the files that must be in that folder")


class Torchvision(_Entry):
    """Any class of torchvision.datasets that gives (image, label) pairs."""

    source: Literal["torchvision"]
    dataset: _NonEmpty = Field(description="Class name in torchvision.datasets, as in CIFAR10")
    train: dict[str, Any] = Field(default_factory=dict, description="Keyword arguments that select the training images")
    test: dict[str, Any] | None = Field(
        description="Keyword arguments that select the test images; null: split `train`"
    )
    by_hand: ByHand | None = Field(None, description="Files that torchvision cannot download")

    @model_validator(mode="after")
    def _no_reserved_argument(self) -> Torchvision:
        for split in SPLITS:
            for key in set(getattr(self, split) or ()) & set(_FILLED_IN):
                raise ValueError(f"must not set {split}.{key}, the download stage does; remove it")
        if self.test == self.train:
            raise ValueError("must not train and test on the same images; give test other arguments, or null")
        return self


class HubSplits(Strict):
    """Names of a hub set's splits."""

    train: _NonEmpty = Field("train", description="Split to train on")
    test: _NonEmpty | None = Field("test", description="Split to test on; null: split `train`")


class Huggingface(_Entry):
    """An image set of the Hugging Face hub, or local parquet files that look like one.

    The default revision is the branch that the hub itself fills with a parquet copy of (almost) every public set,
    whatever its own format, so no loading script is ever run.
    """

    source: Literal["huggingface"]
    repo: str | None = Field(None, pattern=r"^[\w.-]+(/[\w.-]+)?$", description="Set on the hub, as in owner/name")
    path: _NonEmpty | None = Field(
        None, description="Local parquet files: a glob in which {split} stands for the split's name"
    )
    config: _NonEmpty | None = Field(
        None, description="Configuration ('subset') of the set; null: the only one, or 'default'"
    )
    revision: _NonEmpty = Field(
        "refs/convert/parquet", description="Branch, tag or commit of the repository that holds parquet files"
    )
    splits: HubSplits = Field(default_factory=HubSplits, description="Which splits to train and test on")
    image_column: _NonEmpty = Field("image", description="Column of pictures")
    label_column: _NonEmpty = Field("label", description="Column of class numbers or names")

    @model_validator(mode="after")
    def _one_origin(self) -> Huggingface:
        if (self.repo is None) == (self.path is None):
            raise ValueError("needs exactly one of repo (on the hub) and path (local parquet files)")
        if self.path and self.splits.test and "{split}" not in self.path:
            raise ValueError("needs {split} in path, as in my-set/{split}-*.parquet, or test: null in splits")
        if self.splits.train == self.splits.test:
            raise ValueError("must not train and test on the same split; write test: null to split train")
        return self


class Folder(_File):
    """Pictures in one folder per class, in a local folder or in an archive (zip, tar, tar.gz, ...)."""

    source: Literal["folder"]
    train: _NonEmpty = Field(
        ".", description="Subfolder that holds the class folders to train on; left out: found by its name"
    )
    test: _NonEmpty | None = Field(
        None, description="Subfolder that holds the class folders to test on; null: split `train`"
    )

    @model_validator(mode="after")
    def _inside(self) -> Folder:
        for split in SPLITS:
            parts = (getattr(self, split) or "").split("/")
            if ".." in parts or (parts[0] == "" and len(parts) > 1):
                raise ValueError(
                    f"needs a subfolder as {split}, without '..' or leading '/', got {getattr(self, split)!r}"
                )
        if self.train == self.test:
            raise ValueError("must not train and test on the same folder; write test: null to split it")
        return self


class Arrays(_File):
    """Arrays in one npz or HDF5 file. An npz is read into memory, HDF5 in pieces."""

    source: Literal["arrays"]
    images: _NonEmpty = Field(
        "x_train", description="Key of the pictures: (N, H, W), (N, H, W, C) or channels first; C is 1, 3 or 4"
    )
    labels: _NonEmpty = Field("y_train", description="Key of their labels: (N,) or (N, 1), integers or strings")
    test_images: _NonEmpty | None = Field(None, description="Key of the test pictures; null: split `images`")
    test_labels: _NonEmpty | None = Field(None, description="Key of their labels")
    classes: list[_NonEmpty] | None = Field(None, min_length=2, description="Class names of the labels 0, 1, ...")
    channels_first: bool | None = Field(
        None, description="true: (N, C, H, W), false: (N, H, W, C); null: what the shape says if it says one"
    )
    max_value: float | None = Field(
        None, gt=0, description="Value that stands for white; 0 is black. null: as type and range say, which is printed"
    )

    @model_validator(mode="after")
    def _test_pair(self) -> Arrays:
        if (self.test_images is None) != (self.test_labels is None):
            raise ValueError("needs test_images and test_labels together, or neither to split images")
        return self


Dataset = Annotated[
    Bundled | Sklearn | Torchvision | Huggingface | Folder | Arrays,
    Field(discriminator="source"),
]


def transfer_key(entry: Dataset) -> str:
    """Name the raw files of an entry: 12 hex digits that change exactly when other bytes would be fetched."""
    fields = {"source", "dataset", "repo", "config", "revision", "url", "sha256", "path"}
    told = entry.model_dump(mode="json", include=fields)
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:12]


def load_catalogue(path: str | Path = "params.yaml") -> dict[DatasetName, Dataset]:
    """Read and validate the `datasets` section alone (what a download needs)."""
    raw = read_yaml(path)
    try:
        return TypeAdapter(dict[DatasetName, Dataset]).validate_python(raw.get("datasets"))
    except ValidationError as error:
        raise ParamsError(str(path), explain(error, dict[DatasetName, Dataset], prefix=("datasets",))) from None
