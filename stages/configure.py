"""Validate params.yaml whole and write each cell's settings: `python -m stages.configure [params.yaml]`."""

from __future__ import annotations

from pathlib import Path

from pipeline.configs import resolve_listing
from pipeline.files import write_json, write_text
from pipeline.graph import checksums
from pipeline.listing import open_listing
from pipeline.validation import ParamsError
from stages import run


def main(params_path: str = "params.yaml") -> None:
    listing = open_listing(params_path)
    configs, problems = resolve_listing(listing)
    if problems:
        raise ParamsError(params_path, problems)
    for cell, config in configs.items():
        if config.pretrain:
            write_json(cell.configs / "pretrain.json", config.pretrain)
        write_json(cell.configs / "probe.json", config.probe)
        write_json(cell.configs / "execution.json", config.execution)
    if listing.grid != "default":  # the root's stages name their files one by one
        for program in ("pretrain", "probe"):
            write_text(Path("runs") / listing.grid / "configs" / f"code-{program}.txt", checksums(program))
    print(f"{params_path}: {len(configs)} cells of grid {listing.grid!r} are valid")


if __name__ == "__main__":
    run(main)
