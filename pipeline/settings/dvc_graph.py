"""The DVC graph of a pipeline under paper/: cells.yaml, which DVC loops over, and dvc.yaml, equal for all but the name.

Both are written, never edited; params.yaml is the source. Paths begin in the DVC project, paper/.
"""

from __future__ import annotations

import os

from pipeline.runtime.project import repository, repro_command, shown
from pipeline.runtime.rooms import OWN, rooms
from pipeline.settings.grid import Listing
from pipeline.settings.params import bases

CELLS = """\
# Written by `python -m stages.expand {typed}` from params.yaml. Remove a line to leave a cell out.
# `pretrain` lists what is trained here, `probe` every cell with the weights it reads and what is kept beside them.
"""

GRAPH = """\
# Written by `python -m stages.expand {typed}`; cells: cells.yaml, settings: params.yaml. Run it with `{command}`.
# configure -> pretrain@cell -> probe@cell -> diagnose, table. Downloads: data/dvc.yaml, models/dvc.yaml (frozen).
vars:
  - cells.yaml

stages:
  configure:
    desc: validate params.yaml whole, try every backbone, write each cell's settings
    wdir: ..
    cmd: python -m stages.configure {folder}/params.yaml
    deps:
      - {folder}/params.yaml
      - {folder}/cells.yaml
{optional}      - {own}
{configure_deps}
    outs:
      - runs/{grid}/configs

  pretrain:
    foreach: ${{cells.pretrain}}
    do:
      desc: LeJEPA pretraining of one cell
      wdir: ..
      cmd: python -m stages.pretrain runs/{grid}/configs/${{key}}/pretrain.json
      deps:
        - runs/{grid}/configs/${{key}}/pretrain.json
        - data/${{item.dataset}}
{pretrain_deps}
      outs:
        - runs/{grid}/${{key}}/pretrain

  probe:
    foreach: ${{cells.probe}}
    do:
      desc: probes of one cell
      wdir: ..
      cmd: python -m stages.probe runs/{grid}/configs/${{key}}/probe.json
      deps:
        - runs/{grid}/configs/${{key}}/probe.json
        - ${{item.weights}}
        - ${{item.beside}}
        - data/${{item.dataset}}
{probe_deps}
      outs:
        - runs/{grid}/${{key}}/probe

  diagnose:
    desc: which run to take without labels, and how healthy the embeddings are
    wdir: ..
    cmd: python -m stages.diagnose {folder}/params.yaml
    deps:
      - runs/{grid}
      - {folder}/params.yaml
      - {folder}/cells.yaml
{diagnose_deps}
    outs:
      - reports/diagnosis/{grid}: {{cache: false}}

  table:
    desc: our numbers beside the published ones
    wdir: ..
    cmd: python -m stages.table {folder}/params.yaml
    deps:
      - runs/{grid}
      - {folder}/params.yaml
      - {folder}/cells.yaml
{published}{table_deps}
    outs:
      - reports/{name}.csv: {{cache: false}}
      - reports/{name}.md: {{cache: false}}
      - reports/plots/{name}.svg: {{cache: false}}
      - reports/claims/{name}.csv: {{cache: false}}
"""


def cells_text(listing: Listing) -> str:
    """Return the text of cells.yaml: one line a cell."""
    lines = [CELLS.format(typed=shown(listing.path.parent))]
    lines += ["cells:\n", "  pretrain:\n" if listing.trained else "  pretrain: {}\n"]
    lines += [f"    {cell.key}: {{dataset: {cell.dataset}}}\n" for cell in listing.trained]
    lines += ["  probe:\n"]
    for cell in listing.cells:
        weights, beside = listing.weights(cell), listing.beside(cell)
        lines.append(f"    {cell.key}: {{dataset: {cell.probed_on}, weights: {weights}, beside: {beside}}}\n")
    return "".join(lines)


def graph_text(listing: Listing) -> str:
    """Return the text of dvc.yaml; the working directory is the pipeline's DVC project, as it is for its stages."""
    root, folder, published = repository(), listing.path.parent, listing.path.with_name("published.csv")
    backbones = listing.path.with_name("backbones.txt")

    def deps(program: str, indent: int = 6) -> str:
        return "\n".join(f"{' ' * indent}- {os.path.relpath(root / place)}" for place in rooms(program))

    shares = [folder.parent / name / file for name in listing.params.shares for file in ("params.yaml", "cells.yaml")]
    optional = [path for path in (backbones, published, *bases(listing.path), *shares) if path.exists()]
    optional = list(dict.fromkeys(optional))
    return GRAPH.format(
        folder=folder,
        typed=shown(folder),
        command=repro_command(listing.path),
        grid=listing.grid,
        name=folder.name,
        own=os.path.relpath(root / OWN),
        optional="".join(f"      - {path}\n" for path in optional),
        published=f"      - {published}\n" if published.exists() else "",
        configure_deps=deps("configure"),
        pretrain_deps=deps("pretrain", 8),
        probe_deps=deps("probe", 8),
        table_deps=deps("table"),
        diagnose_deps=deps("diagnose"),
    )
