"""Validate params.yaml whole and write each cell's settings: `python -m stages.configure [params.yaml]`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.catalogue.validation import ParamsError
from pipeline.runtime.bars import bar
from pipeline.runtime.files import json_text, write_json
from pipeline.schema.resolved import EXECUTION
from pipeline.schema.resolved_analyses import (
    AnalysisExecution,
    ForeignRun,
    PicturesRun,
    ScoreRun,
    configs_folder,
)
from pipeline.settings.grid import Listing, open_listing
from pipeline.settings.resolve import resolve_listing
from pipeline.sources.inputs import INPUTS, absent_inputs, link_foreign, link_inputs
from stages import run


def main(params_path: str = "params.yaml") -> None:
    listing = open_listing(params_path)
    configs, problems = resolve_listing(listing)
    own = {name: listing.params.datasets[name] for name in listing.params.grid.datasets}
    if problems := problems + absent_inputs(own):
        raise ParamsError(params_path, problems)
    for cell, config in bar("write settings", len(configs), unit="cell", delay_s=2.0, iterable=configs.items()):
        write_settings(cell.configs, config.files())
    write_analyses(listing)
    if listing.grid == "default":
        link_sets(listing)
    print(f"{params_path}: {len(configs)} cells of grid {listing.grid!r} are valid")


def write_settings(folder: Path, settings: dict[str, Any]) -> None:
    """Write a file for each kind, without fsync, which costs a large grid half a minute: a crash repeats all."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in settings.items():
        (folder / name).write_text(json_text(value), encoding="utf-8")


def write_analyses(listing: Listing) -> None:
    """Write the settings of the analyses and of the page, which stages read or depend on."""
    params, path = listing.params, str(listing.path)
    settings = {"diagnose": params.diagnose, "report": params.report, "foreign": ForeignRun.of(params)}
    files = {f"{name}.json": section.model_dump(mode="json", by_alias=True) for name, section in settings.items()}
    files["score.json"] = ScoreRun.of(params, path).result_key()
    files["pictures.json"] = PicturesRun.of(params, path).result_key()
    files[EXECUTION] = AnalysisExecution.of(params).model_dump(mode="json")
    write_settings(configs_folder(path), files)


def link_sets(listing: Listing) -> None:
    """Write what downloads read, and link the user's own files."""
    params, folder = listing.params, configs_folder(listing.path) / "sets"
    own, foreign = {name: params.datasets[name] for name in params.grid.datasets}, ForeignRun.of(params).sets
    for name, entry in own.items():
        write_json(folder / f"{name}.json", entry.model_dump(mode="json", by_alias=True))
    listed = {name: link_inputs(name, entry) for name, entry in own.items()} | link_foreign(foreign)
    write_json(INPUTS / "listed.json", {name: [str(path) for path in paths] for name, paths in listed.items()})


if __name__ == "__main__":
    run(main)
