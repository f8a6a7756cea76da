"""Write each entry of the catalogues to a file and link the user's own files: `python -m stages.inputs params.yaml`.

For a project in which no `configure` does that for all its pipelines (paper/). DVC follows data/inputs/<name> and
models/inputs/<name>, so that changed files are packed or loaded again.
"""

from __future__ import annotations

from pathlib import Path

from pipeline.catalogue.datasets import load_catalogue
from pipeline.runtime.files import write_json
from pipeline.schema.parameters import Model
from pipeline.sources.inputs import link_if_there, link_model
from stages import run


def main(params_path: str) -> None:
    sets, models = load_catalogue(params_path), Model.catalogue(params_path)
    for kind, entries in (("data", sets), ("models", models)):
        for name, entry in entries.items():
            write_json(Path(kind) / "entries" / f"{name}.json", entry.model_dump(mode="json", by_alias=True))
    linked = [name for name, entry in sets.items() if link_if_there(name, entry)]
    linked += [name for name, entry in models.items() if link_model(name, entry.local_path)]
    print(f"{len(sets)} data sets, {len(models)} frozen models; {len(linked)} read files of this machine: {linked}")


if __name__ == "__main__":
    run(main)
