"""Pack the sets of density.sets beside the grid to data/foreign/<name>/: `python -m stages.foreign [params.yaml]`.

A set that cannot be had costs an analysis and no more: data/foreign/absent.json says why.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from pipeline.runtime.errors import UserError
from pipeline.runtime.files import write_json
from pipeline.schema.resolved_analyses import ForeignRun, configs_folder
from pipeline.sources.download import download, is_packed, summary
from stages import run

FOREIGN = Path("data/foreign")


def main(params_path: str = "params.yaml") -> None:
    wanted = ForeignRun.read(configs_folder(params_path) / "foreign.json").sets
    FOREIGN.mkdir(parents=True, exist_ok=True)
    for old in FOREIGN.iterdir():
        if old.name not in wanted:
            shutil.rmtree(old) if old.is_dir() else old.unlink()
    absent = {}
    for name, entry in wanted.items():
        if is_packed(FOREIGN / name, entry):
            print(f"{name}: is there already")
            continue
        try:
            print(*summary(download(name, entry, FOREIGN / name)), sep="\n")
        except Exception as error:  # tables and page matter more than an analysis
            reason = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
            absent[name] = " ".join(reason.split())
            shutil.rmtree(FOREIGN / name, ignore_errors=True)
            print(f"{name}: left out of the analyses: {absent[name]}")
    write_json(FOREIGN / "absent.json", absent)


if __name__ == "__main__":
    run(main)
