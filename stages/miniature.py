"""Write minutes-long versions of paper pipelines: `python -m stages.miniature paper/table5 ...`.

For each it writes miniature/<id>/: run it with `dvc --cd miniature repro <id>/dvc.yaml`. miniature/ is a DVC project
like paper/, with its own data, runs and reports. Pipelines that it shares pretrainings with are written too.
"""

from __future__ import annotations

from contextlib import chdir
from pathlib import Path

from pipeline.runtime.errors import UserError
from pipeline.runtime.files import write_text
from pipeline.runtime.project import repository, repro_command, shown
from pipeline.settings import miniature
from pipeline.settings.dvc_graph import cells_text, graph_text
from pipeline.settings.grid import LISTING, PUBLISHED, Listing, open_listing, published_rows
from pipeline.settings.params import read_sections
from stages import run

FROM_PAPER = (
    ".dvc/config",
    ".dvc/.gitignore",
    "data/.gitignore",
    "data/dvc.yaml",
    "models/.gitignore",
    "models/dvc.yaml",
)


def main(*folders: str) -> None:
    if not folders:
        raise UserError("give one or more pipeline folders, e.g. paper/table5")
    paper, home = repository() / "paper", repository() / "miniature"
    for name in FROM_PAPER:
        write_text(home / name, (paper / name).read_text(encoding="utf-8"))
    for folder in folders:
        write(paper / Path(folder).name, home)


def write(folder: Path, home: Path) -> None:
    sections, target = read_sections(folder / "params.yaml"), home / folder.name
    for name in sections.get("shares", []):
        write(folder.parent / name, home)
    if "grid" not in sections:
        miniature.write_yaml(target / "params.yaml", miniature.figure_miniature(sections), shown(folder))
        graph = (folder / "dvc.yaml").read_text(encoding="utf-8")
        write_text(target / "dvc.yaml", graph.replace(f"runs/{folder.name}", f"runs/miniature-{folder.name}"))
        if (folder / PUBLISHED).exists():
            write_text(target / PUBLISHED, (folder / PUBLISHED).read_text(encoding="utf-8"))
        print(f"{target}: run it with {repro_command(target / 'params.yaml')}")
        return
    original = open_listing(folder / "params.yaml", whole=True)
    stands = miniature.names(original)
    miniature.write_yaml(target / "params.yaml", miniature.grid_miniature(sections, original, stands), shown(folder))
    chosen = miniature.chosen_cells(original.cells)
    miniature.write_csv(
        target / PUBLISHED, miniature.published_miniature(published_rows(original.path), chosen, stands)
    )
    with chdir(home):
        small = open_listing(Path(folder.name) / "params.yaml", whole=True)
        cells = miniature.chosen_cells(small.cells)
        owners = {cell: small.owners[cell] for cell in cells if not cell.frozen}
        listing = Listing(small.path, small.settings, small.grid, cells, owners)
        write_text(target / LISTING, cells_text(listing))
        write_text(target / "dvc.yaml", graph_text(listing))
    command = repro_command(target / "params.yaml")
    print(f"{target}: {len(cells)} of {len(original.cells)} cells; run it with {command}")


if __name__ == "__main__":
    run(main)
