"""The DVC graph of a pipeline under paper/: cells.yaml, which DVC loops over, and dvc.yaml, equal for all but the name.

Both are written, never edited; params.yaml is the source. Paths begin in the DVC project, paper/. Stages depend on the
import closure of their programs. Those of the cells do so through one file of checksums that configure writes: hundreds
of cells with thirty files each would cost every dvc command seconds.
"""

from __future__ import annotations

import ast
import hashlib
import os
from pathlib import Path

from pipeline.listing import Listing
from pipeline.params import bases
from pipeline.project import repository, repro_command, shown

CORRELATIONS = "pipeline/diagnostics/published_correlations.csv"
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
{optional}{configure_deps}
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
        - runs/{grid}/configs/code-pretrain.txt
        - data/${{item.dataset}}
      outs:
        - runs/{grid}/${{key}}/pretrain/backbone.safetensors
        - runs/{grid}/${{key}}/pretrain/projector.safetensors
        - runs/{grid}/${{key}}/pretrain/provenance.json
      metrics:
        - runs/{grid}/${{key}}/pretrain/metrics.json
      plots:
        - runs/{grid}/${{key}}/pretrain/history.csv:
            x: epoch
            y: loss

  probe:
    foreach: ${{cells.probe}}
    do:
      desc: probes of one cell
      wdir: ..
      cmd: python -m stages.probe runs/{grid}/configs/${{key}}/probe.json
      deps:
        - runs/{grid}/configs/${{key}}/probe.json
        - runs/{grid}/configs/code-probe.txt
        - ${{item.weights}}
        - ${{item.beside}}
        - data/${{item.dataset}}
      outs:
        - runs/{grid}/${{key}}/probe/health.json
      metrics:
        - runs/{grid}/${{key}}/probe/metrics.json

  diagnose:
    desc: which run to take without labels, and how healthy the embeddings are
    wdir: ..
    cmd: python -m stages.diagnose {folder}/params.yaml
    deps:
      - runs/{grid}
      - {folder}/params.yaml
      - {folder}/cells.yaml
      - {correlations}
{diagnose_deps}
    outs:
      - reports/diagnosis/{grid}:
          cache: false

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
      - reports/{name}.csv:
          cache: false
      - reports/{name}.md:
          cache: false
      - reports/plots/{name}.svg:
          cache: false
      - reports/claims/{name}.csv:
          cache: false
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

    def deps(*programs: str) -> str:
        files = {path for program in programs for path in import_closure(root / "stages" / f"{program}.py", root)}
        return "\n".join(f"      - {os.path.relpath(path)}" for path in sorted(files))

    shares = [folder.parent / name / file for name in listing.params.shares for file in ("params.yaml", "cells.yaml")]
    optional = [path for path in (backbones, published, *bases(listing.path), *shares) if path.exists()]
    optional = list(dict.fromkeys(optional))
    return GRAPH.format(
        folder=folder,
        typed=shown(folder),
        command=repro_command(listing.path),
        correlations=os.path.relpath(root / CORRELATIONS),
        grid=listing.grid,
        name=folder.name,
        optional="".join(f"      - {path}\n" for path in optional),
        published=f"      - {published}\n" if published.exists() else "",
        configure_deps=deps("configure", "pretrain", "probe"),
        table_deps=deps("table"),
        diagnose_deps=deps("diagnose"),
    )


def checksums(program: str) -> str:
    """Return a line for every file that a stage's program may load: SHA-256 and path."""
    root = repository()
    files = sorted(import_closure(root / "stages" / f"{program}.py", root))
    return "".join(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(root)}\n" for path in files)


def imports(path: Path) -> set[str]:
    """Return the absolute module names a file imports; `from pipeline import x` counts as pipeline.x."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def local_imports(path: Path, root: Path) -> set[Path]:
    """Return the files of the repository that a file imports, packages' __init__ of stages included."""
    names = imports(path)
    candidates = {root / (name.replace(".", "/") + ".py") for name in names}
    if "stages" in names:
        candidates.add(root / "stages/__init__.py")
    return {candidate for candidate in candidates if candidate.exists()}


def import_closure(program: Path, root: Path) -> set[Path]:
    """Return all files of the repository that running a program may load."""
    found: set[Path] = set()
    todo = [program]
    while todo:
        current = todo.pop()
        if current not in found:
            found.add(current)
            todo += local_imports(current, root)
    return found
