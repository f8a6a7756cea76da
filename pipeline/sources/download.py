"""One data set from its entry in the catalogue to a packed folder, and what is said of it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.catalogue.datasets import Dataset, transfer_key
from pipeline.sources.open import open_source, told_by_name
from pipeline.sources.packing import PackError, pack
from pipeline.sources.splits import Account
from pipeline.sources.transfer import shown

TRANSFERS = Path(".scratch/downloads")


def described(entry: Dataset) -> dict[str, Any]:
    """Return an entry as meta.json holds it."""
    told = entry.model_dump(mode="json", by_alias=True, exclude_none=True)
    if "url" in told:
        told["url"] = shown(told["url"])  # what stands after a question mark may be somebody's
    return told


def download(name: str, entry: Dataset, folder: Path) -> dict[str, Any]:
    """Fetch a data set and pack it; print what was taken for what.

    Args:
        name: of the data set.
        entry: its catalogue entry.
        folder: to make, data/<name>.

    Returns:
        Its meta.json.

    Raises:
        UserError: it cannot be had or used; says what to do.
    """
    scratch = TRANSFERS / f"{name}-{transfer_key(entry)}"
    source = open_source(name, entry, scratch)
    for note in source.account.notes:
        print(f"{name}: {note}", flush=True)
    account = _as_dict(source.account, used=sum(map(len, source.splits.values())))
    try:
        meta = pack(
            folder, name, described(entry), source.classes, source.splits, origin=source.origin, account=account
        )
    except PackError:  # names the set
        raise
    except (OSError, ValueError):
        with told_by_name(name):
            raise
    shutil.rmtree(scratch, ignore_errors=True)
    return meta


def is_packed(folder: Path, entry: Dataset) -> bool:
    """Whether a folder holds the set of this very entry, which leads to no file of the user's that may have changed."""
    try:
        meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return meta["source"] == described(entry) and not meta.get("inputs", {}).get("num_files")


def _as_dict(account: Account, *, used: int) -> dict[str, Any]:
    left_out = dict(account.left_out)
    found = used + sum(left_out.values())
    assert account.num_found == found, f"{account.num_found} found, {found} accounted for"
    return {
        "found": found,
        "used": used,
        "left_out": left_out,
        "left_out_examples": account.examples,
        "notes": account.notes,
        "inputs": {"num_files": account.num_files, "num_bytes": account.num_bytes},
    }


def summary(meta: dict[str, Any]) -> Iterator[str]:
    """Yield the lines that tell of a packed data set: counts of splits and classes, what was left out or changed."""
    yield f"{meta['name']}: {len(meta['classes'])} classes, {meta['channels']} channel(s), from {meta['origin']}"
    for split, told in meta["splits"].items():
        yield f"  {split}: {told['num_images']} images"
        for label, count in zip(meta["classes"], told["per_class"], strict=True):
            yield f"    {count:7d}  {label}"
    yield f"  found {meta['found']} = used {meta['used']} + left out {sum(meta['left_out'].values())}"
    for reason, count in meta["left_out"].items():
        examples = ", ".join(meta["left_out_examples"].get(reason, ()))
        yield f"    left out {count}: {reason}" + (f", as {examples}" if examples else "")
    for change, count in meta["changes"].items():
        yield f"  {count} images: {change}"
    if meta["num_constant_images"]:
        yield f"  {meta['num_constant_images']} images are one colour throughout"


def warnings_of(meta: dict[str, Any]) -> Iterator[str]:
    """Yield what a person should see even in a long log."""
    name = meta["name"]
    if num_left_out := sum(meta["left_out"].values()):
        reasons = "; ".join(f"{count} {reason}" for reason, count in meta["left_out"].items())
        yield f"{name}: left out {num_left_out}: {reasons}"
    if copies := meta["num_test_images_in_train"]:
        told = f"{copies} of {meta['splits']['test']['num_images']} test images are also training images"
        yield f"{name}: {told}; they flatter the scores, take them out of one split"
