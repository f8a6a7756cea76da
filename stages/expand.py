"""List the cells of pipelines and write their graphs: `python -m stages.expand paper/table5 ...`.

From params.yaml (and published.csv) to cells.yaml and dvc.yaml beside it; a rule in grid.backbones is listed in
backbones.txt first, unless that file is there: names removed from it stay removed.
"""

from __future__ import annotations

from pathlib import Path

from pipeline.runtime.errors import UserError
from pipeline.runtime.files import write_text
from pipeline.settings.dvc_graph import cells_text, graph_text
from pipeline.settings.grid import LISTING, open_listing
from pipeline.settings.params import BACKBONE_LIST, backbone_rule
from stages import run


def main(*folders: str) -> None:
    if not folders:
        raise UserError("give one or more pipeline folders, e.g. paper/table5")
    for folder in folders:
        expand(Path(folder))


def expand(folder: Path) -> None:
    params_path = folder / "params.yaml"
    rule, names = backbone_rule(params_path), folder / BACKBONE_LIST
    if rule and not names.exists():
        from pipeline.zoo import families

        families.write_list(names, families.expand(rule.families, rule.max_params))
    listing = open_listing(params_path, whole=True)
    write_text(folder / LISTING, cells_text(listing))
    write_text(folder / "dvc.yaml", graph_text(listing))
    shared = sum(listing.owners[cell] != cell for cell in listing.owners)
    print(f"{folder}: {len(listing.cells)} cells, {len(listing.trained)} pretrainings here, {shared} shared")


if __name__ == "__main__":
    run(main)
