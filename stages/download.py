"""Fetch one data set of the catalogue and pack it to data/<name>/: `python -m stages.download NAME [params.yaml]`.

Without NAME the DVC stage that runs it says which.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from pipeline.catalogue import load_catalogue, transfer_key
from pipeline.errors import UserError
from pipeline.fetch import shown
from pipeline.packing import pack
from pipeline.project import root_params, stage_key
from pipeline.sources import open_source
from pipeline.validation import did_you_mean
from stages import run

TRANSFERS = Path(".scratch/downloads")


def main(name: str = "", params_path: str | None = None) -> None:
    name, catalogue = name or stage_key(), load_catalogue(params_path or root_params())
    if name not in catalogue:
        raise UserError(f"unknown data set {name!r}{did_you_mean(name, catalogue)}; add it under datasets:")
    entry = catalogue[name]
    scratch = TRANSFERS / f"{name}-{transfer_key(entry)}"
    source = open_source(name, entry, scratch)
    described = entry.model_dump(mode="json", by_alias=True, exclude_none=True)
    if "url" in described:
        described["url"] = shown(described["url"])  # what stands after a question mark may be somebody's
    meta = pack(Path("data") / name, name, described, source.classes, source.splits, origin=source.origin)
    shutil.rmtree(scratch, ignore_errors=True)
    print(f"{name}: {len(meta['classes'])} classes, {meta['channels']} channel(s), from {meta['origin']}")
    for split, told in meta["splits"].items():
        print(f"  {split}: {told['num_images']} images")
        for label, count in zip(meta["classes"], told["per_class"], strict=True):
            print(f"    {count:7d}  {label}")
    for change, count in meta["changes"].items():
        print(f"  {count} images: {change}")
    if copies := meta["num_test_images_in_train"]:
        told = f"{copies} of {meta['splits']['test']['num_images']} test images are also training images"
        print(f"  warning: {name}: {told}; they flatter the scores, take them out of one split", file=sys.stderr)


if __name__ == "__main__":
    run(main)
