"""Fetch one data set of the catalogue and pack it to data/<name>/: `python -m stages.download NAME [params.yaml]`.

Without NAME the DVC stage that runs it says which.
"""

from __future__ import annotations

import sys
from pathlib import Path

from pipeline.catalogue.datasets import load_catalogue
from pipeline.runtime.errors import UserError, did_you_mean
from pipeline.runtime.project import root_params, stage_key
from pipeline.sources.download import download, summary, warnings_of
from pipeline.sources.inputs import link_again
from stages import run


def main(name: str = "", params_path: str | None = None) -> None:
    name, catalogue = name or stage_key(), load_catalogue(params_path or root_params())
    if name not in catalogue:
        raise UserError(f"unknown data set {name!r}{did_you_mean(name, catalogue)}; add it under datasets:")
    link_again(name, catalogue[name])
    meta = download(name, catalogue[name], Path("data") / name)
    print(*summary(meta), sep="\n")
    for line in warnings_of(meta):
        print(f"  warning: {line}", file=sys.stderr)


if __name__ == "__main__":
    run(main)
