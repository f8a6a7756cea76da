"""Pictures from parquet files: image sets of the Hugging Face hub, or local files like theirs.

Only data are read: no loading script runs, nothing is unpickled. huggingface_hub lists the files; the transfer is ours,
so that it resumes and each file is checked against the sha256 that the hub states for it.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
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

from pipeline.catalogue.datasets import Huggingface
from pipeline.runtime.errors import did_you_mean
from pipeline.sources.file_kinds import check_readable, replaced
from pipeline.sources.inputs import matched_files, user_path
from pipeline.sources.splits import Account, RawDataset
from pipeline.sources.transfer import FetchError, fetch, fetch_anew

ROWS = 64  # pictures read at a time
_SPLIT_WORDS = {"train", "training", "test", "testing", "val", "valid", "validation", "dev", "eval"}
_SHARD_WORDS = {"", "part", "shard", "chunk", "file", "data", "batch"}
LAYOUTS = "<split>-*.parquet, <split>_0.parquet, <split>/*.parquet, each also below data/ or <config>/"


def open_hub(entry: Huggingface, scratch: Path) -> RawDataset:
    """Fetch the parquet files of the splits and open them.

    Raises:
        FetchError: no such set, revision, configuration, split or column; no access; a failed download.
    """
    account = Account()
    splits = {"train": entry.splits.train} | ({"test": entry.splits.test} if entry.splits.test else {})
    if entry.path:
        files = {split: _local_files(entry.path, name) for split, name in splits.items()}
        origin = entry.path
        for file in {file for paths in files.values() for file in paths}:
            check_readable(file)
            account.read(file.stat().st_size)
    else:
        files, commit = _fetch_splits(entry, splits, scratch, account)
        origin = f"{entry.repo} at {commit}"
    for file in {file for paths in files.values() for file in paths}:
        _check_schema(file, entry)
    labels = {split: _labels(paths, entry.label_column) for split, paths in files.items()}
    names = _class_names(files["train"][0], entry.label_column)
    account.num_found = sum(map(len, labels.values()))
    pictures = {
        split: partial(_pictures, paths, entry.image_column, is_local=entry.path is not None)
        for split, paths in files.items()
    }
    return RawDataset(labels, pictures, names, origin, account)


def _local_files(pattern: str, split: str) -> list[Path]:
    found = [path for path in matched_files(pattern, split) if path.is_file()]
    if not found:
        wanted = user_path(pattern.replace("{split}", split))
        folder = next(folder for folder in wanted.parents if folder.is_dir())
        raise FetchError(
            f"path: no file matches {str(wanted)!r}; {_seen(path.name for path in folder.iterdir())} in {folder}; "
            "correct path in params.yaml, in which {split} stands for the split's name and * for anything"
        )
    return found


def _seen(paths: Iterable[str]) -> str:
    names = sorted(paths)
    return f"seen: {', '.join(names[:10]) or 'nothing'}" + (f", ... ({len(names)} in all)" if len(names) > 10 else "")


def _fetch_splits(
    entry: Huggingface, splits: dict[str, str], scratch: Path, account: Account
) -> tuple[dict[str, list[Path]], str]:
    """Return the downloaded files of each split, and the commit they are from."""
    endpoint = os.environ.get("HF_ENDPOINT", ENDPOINT).rstrip("/")
    listed, commit = _list_files(HfApi(endpoint=endpoint), entry)
    chosen = choose_files(list(listed), config=entry.config, splits=splits, revision=entry.revision)
    used = {path for paths in chosen.values() for path in paths}
    if others := [path for path in listed if path.endswith(".parquet") and path not in used]:
        account.notes.append(f"{len(others)} other parquet files are there and not used, as {others[0]}")
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
        raise FetchError(
            f"{page} cannot be read ({type(error).__name__}); check the network and its proxy (HTTPS_PROXY), or fetch "
            "the parquet files by hand and give their path in place of repo"
        ) from None


def choose_files(
    paths: list[str], *, config: str | None, splits: dict[str, str], revision: str = "main"
) -> dict[str, list[str]]:
    """Find the parquet files of each split among a repository's paths.

    Understood are files named after their split, <split>-00000-of-00005.parquet or <split>_0.parquet, and files in a
    folder named after it, <split>/0000.parquet or <split>/part-0.parquet, at the top, in data/ or in <config>/.

    Args:
        paths: of all files.
        config: configuration to use; None: the only one, or "default".
        splits: our name of a split to the repository's.
        revision: where they are, for messages.

    Raises:
        FetchError: naming the configurations or splits there are, or the files that were seen.
    """
    words = _SPLIT_WORDS | set(splits.values())
    found: dict[str, dict[str, list[str]]] = {}
    for path in sorted(paths):
        if path.endswith(".parquet"):
            above, split = _place(path.removesuffix(".parquet"), words)
            found.setdefault(above, {}).setdefault(split, []).append(path)
    seen = f"{_seen(path for path in paths if path.endswith('.parquet') or not found)}; understood: {LAYOUTS}"
    if not found:
        other = "main" if revision == "refs/convert/parquet" else "refs/convert/parquet"
        raise FetchError(f"revision: it holds no parquet files; {seen}; try revision: {other}")
    config = config or (next(iter(found)) if len(found) == 1 else "default")
    if config not in found:
        raise FetchError(f"config: unknown configuration {config!r}{did_you_mean(config, found)}; {seen}")
    for name in splits.values():
        if name not in found[config] and f"partial-{name}" in found[config]:
            raise FetchError(f"splits: the hub's copy has only a part of {name!r}; try revision: main")
        if name not in found[config]:
            alone = " (test: null splits the training images)" if name == splits.get("test") else ""
            raise FetchError(f"splits: unknown split {name!r}{did_you_mean(name, found[config])}{alone}; {seen}")
    return {split: found[config][name] for split, name in splits.items()}


def _place(path: str, words: set[str]) -> tuple[str, str]:
    """Return configuration and split of a parquet file, from its path without the suffix."""
    *folders, stem = path.split("/")
    split = _split_of(stem, words)
    if split in words or not folders:
        split = "train" if split in _SHARD_WORDS else split  # as the datasets library has it
        above = [part for part in folders if part != split]
    elif named := [part for part in folders if part in words]:
        split, above = named[-1], [part for part in folders if part != named[-1]]
    elif split in _SHARD_WORDS and folders != ["data"]:
        split, above = folders[-1], folders[:-1]
    else:
        split, above = "train" if split in _SHARD_WORDS else split, folders
    return "/".join(part for part in above if part != "data") or "default", split


def _split_of(stem: str, words: set[str]) -> str:
    """Return what a file's name says of its split: train of train, train-00000-of-00005-0ab, train_00; "" of 0000."""
    if stem in words:
        return stem
    if match := re.fullmatch(r"(.+?)-\d+-of-\d+(-\w+)?", stem):
        return match[1]
    name = re.sub(r"(^|[-_.])\d[\w.-]*$", "", stem)
    return re.sub(r"[-_.](part|shard|chunk|file)$", "", name)


def _check_schema(file: Path, entry: Huggingface) -> None:
    with _told_damage(file, is_fetched=entry.path is None):
        schema = pq.read_schema(file)
    kinds = {
        setting: _column_type(schema, getattr(entry, setting), setting) for setting in ("image_column", "label_column")
    }
    image, label = kinds["image_column"], kinds["label_column"]
    fields = {image.field(i).name for i in range(image.num_fields)} if pa.types.is_struct(image) else set()
    is_text = pa.types.is_string(image) or pa.types.is_large_string(image)
    is_bytes = pa.types.is_binary(image) or pa.types.is_large_binary(image)
    if not (is_bytes or fields & {"bytes", "path"} or (is_text and entry.path)):
        raise FetchError(
            f"image_column: {entry.image_column!r} of {file.name} holds no encoded picture, but {image}; it must hold "
            "PNG or JPEG files: binary, or a struct of bytes and path"
        )
    if pa.types.is_nested(label):
        raise FetchError(f"label_column: {entry.label_column!r} must hold class numbers or names, got {label}")


def _column_type(schema: pa.Schema, column: str, setting: str) -> pa.DataType:
    if column not in schema.names:
        raise FetchError(f"{setting}: unknown column {column!r}{did_you_mean(column, schema.names)}")
    return schema.field(column).type


@contextmanager
def _told_damage(file: Path, *, is_fetched: bool) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowInvalid, OSError) as error:
        if getattr(error, "errno", None) is not None:
            raise
        damaged = f"a parquet file is damaged, {file} ({error}); {fetch_anew(file, is_fetched)}"
        raise FetchError(replaced(file) or damaged) from error


def _labels(files: list[Path], column: str) -> np.ndarray:
    parts = []
    for file in files:
        # objects: None where there is no label; dictionaries become their values
        values = pq.read_table(file, columns=[column])[column].to_pylist()
        part = np.empty(len(values), object)
        part[:] = values
        parts.append(part)
    return np.concatenate(parts)


def _class_names(file: Path, column: str) -> list[str] | None:
    """Return the names of labels 0, 1, ... that the datasets library leaves in the schema; None if there are none."""
    metadata = pq.read_schema(file).metadata or {}
    try:
        return list(json.loads(metadata[b"huggingface"])["info"]["features"][column]["names"])
    except (KeyError, TypeError, ValueError):
        return None


def _pictures(files: list[Path], column: str, *, is_local: bool) -> Iterator[tuple[bytes | Path | Exception, str]]:
    for file in files:
        row = 0
        for batch in pq.ParquetFile(file, memory_map=True).iter_batches(batch_size=ROWS, columns=[column]):
            for value in batch.column(0):
                yield _content(value.as_py(), file, is_local), f"{file.name} row {row}"
                row += 1


def _content(value: dict | bytes | str | None, file: Path, is_local: bool) -> bytes | Path | Exception:
    """Return the bytes in a row, or in sets of the user's own the picture to which it leads from its file."""
    path = value.get("path") if isinstance(value, dict) else value if isinstance(value, str) else None
    content = value.get("bytes") if isinstance(value, dict) else value
    if isinstance(content, bytes):
        return content
    if path is None:
        return ValueError("the row holds no picture")
    if not is_local:
        return ValueError(
            f"the row holds the path {path} and no picture; only sets of your own may lead to other files"
        )
    picture = file.parent / path
    return picture if picture.is_file() else ValueError(f"there is no file {picture}, to which the row leads")
