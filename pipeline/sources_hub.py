"""Pictures from parquet files: image sets of the Hugging Face hub, or local files like theirs.

Only data are read: no loading script runs, nothing is unpickled. huggingface_hub lists the files; the transfer is ours,
so that it resumes and each file is checked against the sha256 that the hub states for it.
"""

from __future__ import annotations

import glob
import json
import os
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from huggingface_hub import HfApi, hf_hub_url
from huggingface_hub.constants import ENDPOINT
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import build_hf_headers

from pipeline.catalogue import Huggingface
from pipeline.fetch import FetchError, fetch
from pipeline.splits import Raw
from pipeline.validation import did_you_mean

ROWS = 64  # pictures read at a time
_CONVERTED = re.compile(r"\d+\.parquet")  # <config>/<split>/0000.parquet, as the hub's converter writes
# data/<split>-00000-of-00005.parquet, as the datasets library uploads
_UPLOADED = re.compile(r"(?P<split>\w+(?:\.\w+)*?)(?:-\d+-of-\d+(?:-\w+)?)?\.parquet")


def open_hub(entry: Huggingface, scratch: Path) -> Raw:
    """Fetch the parquet files of the splits and open them.

    Raises:
        FetchError: no such set, revision, configuration, split or column; no access; a failed download.
    """
    splits = {"train": entry.splits.train} | ({"test": entry.splits.test} if entry.splits.test else {})
    if entry.path:
        files = {split: _local_files(entry.path, name) for split, name in splits.items()}
        origin = entry.path
    else:
        files, commit = _fetch_splits(entry, splits, scratch)
        origin = f"{entry.repo} at {commit}"
    try:
        labels = {split: _labels(paths, entry) for split, paths in files.items()}
        names = _class_names(files["train"][0], entry.label_column)
    except pa.ArrowInvalid as error:
        raise FetchError(f"a parquet file is damaged ({error}); fetch it again") from error
    pictures = {split: partial(_pictures, paths, entry.image_column) for split, paths in files.items()}
    return Raw(labels, pictures, names, origin)


def _local_files(pattern: str, split: str) -> list[Path]:
    found = sorted(glob.glob(os.path.expanduser(pattern.replace("{split}", split)), recursive=True))
    if not found:
        raise FetchError(f"path: no file matches {pattern.replace('{split}', split)!r} (from {Path.cwd()})")
    return [Path(path) for path in found]


def _fetch_splits(entry: Huggingface, splits: dict[str, str], scratch: Path) -> tuple[dict[str, list[Path]], str]:
    """Return the downloaded files of each split, and the commit they are from."""
    endpoint = os.environ.get("HF_ENDPOINT", ENDPOINT).rstrip("/")
    listed, commit = _list_files(HfApi(endpoint=endpoint), entry)
    chosen = choose_files(list(listed), config=entry.config, splits=splits)
    headers = build_hf_headers()  # with the user's token, if there is one; shown to nobody
    files: dict[str, list[Path]] = {}
    for split, paths in chosen.items():
        files[split] = []
        for path in paths:
            url = hf_hub_url(entry.repo, path, repo_type="dataset", revision=commit, endpoint=endpoint)
            sha256 = listed[path].lfs.sha256 if listed[path].lfs else None
            target = scratch / path.replace("/", "--")
            fetch(url, target, sha256=sha256, num_bytes=listed[path].size, headers=headers)
            files[split].append(target)
    return files, commit


def _list_files(api: HfApi, entry: Huggingface) -> tuple[dict[str, RepoFile], str]:
    page = f"{api.endpoint}/datasets/{entry.repo}"
    try:
        commit = api.dataset_info(entry.repo, revision=entry.revision).sha
        tree = api.list_repo_tree(entry.repo, recursive=True, revision=commit, repo_type="dataset")
        return {item.path: item for item in tree if isinstance(item, RepoFile)}, commit
    except GatedRepoError:
        raise FetchError(
            f"{page} is gated: accept its terms there and log in with `hf auth login` (or HF_TOKEN)"
        ) from None
    except RepositoryNotFoundError:
        raise FetchError(f"repo: no data set at {page}, or it is private: log in with `hf auth login`") from None
    except RevisionNotFoundError:
        raise FetchError(
            f"revision: {page} has no {entry.revision!r}; try revision: main if the set is stored as parquet"
        ) from None
    except Exception as error:  # the client's network errors come from a library that differs between its versions
        raise FetchError(f"{page} cannot be read ({type(error).__name__}); run the same command again") from None


def choose_files(paths: list[str], *, config: str | None, splits: dict[str, str]) -> dict[str, list[str]]:
    """Find the parquet files of each split among a repository's paths.

    Understood are <config>/<split>/0000.parquet (the hub's own copies) and [data/ or <config>/]<split>-*.parquet.

    Args:
        paths: of all files.
        config: configuration to use; None: the only one, or "default".
        splits: our name of a split to the repository's.

    Raises:
        FetchError: naming the configurations or splits there are.
    """
    found: dict[str, dict[str, list[str]]] = {}
    for path in sorted(paths):
        *folders, last = path.split("/")
        if _CONVERTED.fullmatch(last) and folders:
            split, above = folders[-1], folders[:-1]
        elif match := _UPLOADED.fullmatch(last):
            split, above = match["split"], [part for part in folders if part != "data"]
        else:
            continue
        found.setdefault("/".join(above) or "default", {}).setdefault(split, []).append(path)
    if not found:
        raise FetchError("revision: it holds no parquet files; try revision: refs/convert/parquet, or main")
    config = config or (next(iter(found)) if len(found) == 1 else "default")
    if config not in found:
        raise FetchError(f"config: unknown configuration {config!r}{did_you_mean(config, found)}")
    for name in splits.values():
        if name not in found[config] and f"partial-{name}" in found[config]:
            raise FetchError(f"splits: the hub's copy has only a part of {name!r}; try revision: main")
        if name not in found[config]:
            raise FetchError(f"splits: unknown split {name!r}{did_you_mean(name, found[config])}")
    return {split: found[config][name] for split, name in splits.items()}


def _check_column(schema: pa.Schema, column: str, setting: str) -> pa.DataType:
    if column not in schema.names:
        raise FetchError(f"{setting}: unknown column {column!r}{did_you_mean(column, schema.names)}")
    return schema.field(column).type


def _labels(files: list[Path], entry: Huggingface) -> np.ndarray:
    parts = []
    for file in files:
        _check_column(pq.read_schema(file), entry.image_column, "image_column")
        kind = _check_column(pq.read_schema(file), entry.label_column, "label_column")
        if not (pa.types.is_integer(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind)):
            raise FetchError(f"label_column: {entry.label_column!r} must hold class numbers or names, got {kind}")
        column = pq.read_table(file, columns=[entry.label_column])[entry.label_column]
        if column.null_count:
            raise FetchError(f"label_column: {column.null_count} rows of {file.name} have no label")
        parts.append(np.asarray(column.to_pylist()))
    return np.concatenate(parts)


def _class_names(file: Path, column: str) -> list[str] | None:
    """Return the names of labels 0, 1, ... that the datasets library leaves in the schema; None if there are none."""
    metadata = pq.read_schema(file).metadata or {}
    try:
        return list(json.loads(metadata[b"huggingface"])["info"]["features"][column]["names"])
    except (KeyError, TypeError, ValueError):
        return None


def _pictures(files: list[Path], column: str) -> Iterator[tuple[bytes, str]]:
    for file in files:
        row = 0
        for batch in pq.ParquetFile(file, memory_map=True).iter_batches(batch_size=ROWS, columns=[column]):
            for value in batch.column(0):
                content = value.as_py()
                content = content.get("bytes") if isinstance(content, dict) else content
                if not isinstance(content, bytes):
                    raise FetchError(
                        f"image_column: row {row} of {file.name} holds no encoded picture, but {value.type}"
                    )
                yield content, f"{file.name} row {row}"
                row += 1
