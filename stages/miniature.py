"""Write minutes-long versions of paper pipelines: `python -m stages.miniature paper/table5 ...`.

For each it writes miniature/<id>/: run it with `dvc repro miniature/<id>/dvc.yaml`; its reports go to
miniature/reports/. Pipelines that it shares pretrainings with are written too.
"""

from __future__ import annotations

import csv
import io
from pathlib import Path

from ruamel.yaml import YAML

from pipeline import miniature
from pipeline.errors import UserError
from pipeline.files import write_text
from pipeline.graph import cells_text, graph_text
from pipeline.listing import LISTING, PUBLISHED, Listing, open_listing, published_rows
from pipeline.params import read_sections, reports_root
from stages import run

HOME = Path("miniature")


def main(*folders: str) -> None:
    if not folders:
        raise UserError("give one or more pipeline folders, e.g. paper/table5")
    for folder in folders:
        write(Path(folder))


def write(folder: Path) -> None:
    sections, target = read_sections(folder / "params.yaml"), HOME / folder.name
    for name in sections.get("shares", []):
        write(folder.parent / name)
    if "grid" not in sections:
        write_yaml(target / "params.yaml", miniature.figure_miniature(sections), folder)
        graph = (folder / "dvc.yaml").read_text(encoding="utf-8")
        moved = graph.replace(f"{folder}/", f"{target}/").replace("reports/", f"{HOME}/reports/")
        write_text(target / "dvc.yaml", moved.replace(f"runs/{folder.name}", f"runs/miniature-{folder.name}"))
        if (folder / PUBLISHED).exists():
            write_text(target / PUBLISHED, (folder / PUBLISHED).read_text(encoding="utf-8"))
        print(f"{target}: run it with dvc repro {target}/dvc.yaml")
        return
    original = open_listing(folder / "params.yaml", whole=True)
    stands = miniature.names(original)
    write_yaml(target / "params.yaml", miniature.grid_miniature(sections, original, stands), folder)
    chosen = miniature.chosen_cells(original.cells)
    write_csv(target / PUBLISHED, miniature.published_miniature(published_rows(original.path), chosen, stands))
    small = open_listing(target / "params.yaml", whole=True)
    cells = miniature.chosen_cells(small.cells)
    listing = Listing(small.path, small.params, small.grid, cells, {c: small.owners[c] for c in cells if not c.frozen})
    write_text(target / LISTING, cells_text(listing))
    write_text(target / "dvc.yaml", graph_text(listing, Path(), reports_root(listing.path)))
    print(f"{target}: {len(cells)} of {len(original.cells)} cells; run it with dvc repro {target}/dvc.yaml")


def write_yaml(path: Path, sections: dict, folder: Path) -> None:
    text, yaml = io.StringIO(), YAML()
    yaml.representer.ignore_aliases = lambda *_: True
    yaml.dump(sections, text)
    write_text(path, f"# Written by `python -m stages.miniature {folder}`; its numbers say nothing.\n{text.getvalue()}")


def write_csv(path: Path, rows: list[dict[str, str]]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]) if rows else ["top1"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


if __name__ == "__main__":
    run(main)
