"""Conformance of architectures: one training step at each view size, in a process of its own, and the report."""

from __future__ import annotations

import datetime
import multiprocessing
from collections.abc import Callable, Iterable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple, get_type_hints

import pandas
from torch import nn

from pipeline.core import csv_files
from pipeline.models.backbones import TIMM_VERSION, backbone_arguments, create_backbone, forward_backward
from pipeline.runtime import provenance
from pipeline.runtime.errors import UserError
from pipeline.runtime.files import write_text
from pipeline.zoo.families import family_of

WORKS = "works"
OTHER_PX = (96, 112, 128, 160, 192)  # multiples of 16 or 32, tried where the local size fails
HEADINGS = {
    "num_params": "parameters",
    "embed_dim": "embedding",
    "at_global": "global views",
    "at_local": "local views",
    "nearest_px": "nearest size that works, px",
}
REMEDIES = """\
A transformer with patches of p px takes views whose side is a multiple of p: 98 px fits p = 14, 96 px fits p = 16.
`pretrain.backbone.kwargs: {dynamic_img_pad: true}` makes it take other sizes by zero-padding the view's right and lower
edge; that is another input, so it is never set unasked. LeViT learns one attention bias per pair of grid cells, and
MaxViT and MaxxViT attend within windows of 1/32 of the global side: they train with global views alone
(`num_local: 0`), as every backbone in figure 9 of the paper does. An entry under `overrides` sets this for some
backbones alone.
"""


class Conformance(NamedTuple):
    """How one architecture took forward and backward passes, in training mode, on two images.

    Attributes:
        num_params: at the global size, without a classifier; 0 if it cannot be built.
        embed_dim: 0 if the global size fails.
        at_global: "works" or why not.
        at_local: the same; "" if no local size was asked for or the global one fails.
        nearest_px: where the local size fails, the nearest of `OTHER_PX` that works; 0 if none does or none is needed.
        timm: version.
    """

    backbone: str
    family: str
    num_params: int
    embed_dim: int
    global_px: int
    at_global: str
    local_px: int
    at_local: str
    nearest_px: int
    timm: str


def untried(name: str, global_px: int, local_px: int, at_global: str = "") -> Conformance:
    """Return the row of an architecture of which nothing is known but perhaps why."""
    return Conformance(name, family_of(name), 0, 0, global_px, at_global, local_px, "", 0, TIMM_VERSION)


def conformance(name: str, global_px: int, local_px: int) -> Conformance:
    """Build an architecture for `global_px` and run a training step at both sizes (`local_px` 0: at one)."""
    row = untried(name, global_px, local_px)
    try:
        backbone = create_backbone(name, backbone_arguments(name, img_size=global_px)).train()
    except Exception as error:  # constructors refuse sizes in many ways
        return row._replace(at_global=_reason(error))
    at_global, embed_dim = _trains(backbone, global_px)
    num_params = sum(parameter.numel() for parameter in backbone.parameters())
    row = row._replace(num_params=num_params, embed_dim=embed_dim, at_global=at_global)
    if not local_px or at_global != WORKS:
        return row
    at_local, local_dim = _trains(backbone, local_px)
    if at_local == WORKS and local_dim != embed_dim:
        at_local = f"gives {local_dim} numbers an image, not {embed_dim}"
    if at_local == WORKS:
        return row._replace(at_local=WORKS)
    nearest = sorted((size_px for size_px in OTHER_PX if size_px < global_px), key=lambda px: abs(px - local_px))
    fitting = (size_px for size_px in nearest if _trains(backbone, size_px) == (WORKS, embed_dim))
    return row._replace(at_local=at_local, nearest_px=next(fitting, 0))


def _trains(backbone: nn.Module, size_px: int) -> tuple[str, int]:
    """Return "works" or why not, and the size of the embedding."""
    try:
        shape = forward_backward(backbone, size_px)
    except Exception as error:  # layers refuse sizes in many ways
        return _reason(error), 0
    return (WORKS, shape[1]) if len(shape) == 2 else (f"gives the shape {shape}, not one vector an image", 0)


def _reason(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def isolated(check: Callable[..., Any], *arguments: Any, limit_s: float) -> Any:
    """Call `check(*arguments)` in a process of its own, so that neither a crash nor its memory outlives it.

    Raises:
        UserError: no answer within `limit_s`, or a process that died.
    """
    context = multiprocessing.get_context("forkserver")  # imports timm once; every process is a copy of that one
    context.set_forkserver_preload([__name__])
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(sender, check, arguments), daemon=True)
    process.start()
    sender.close()
    try:
        if not receiver.poll(limit_s):
            raise UserError(f"no answer within {limit_s:g} s")
        return receiver.recv()
    except EOFError:
        process.join()
        raise UserError(f"the process died with exit status {process.exitcode}") from None
    finally:
        process.kill()
        process.join()
        receiver.close()


def _answer(sender: Connection, check: Callable[..., Any], arguments: tuple) -> None:
    sender.send(check(*arguments))


def read_rows(path: Path) -> dict[str, Conformance]:
    """Return the rows of an earlier table by name; none if there is none.

    Raises:
        UserError: if the table has other columns.
    """
    if not path.exists():
        return {}
    kinds = get_type_hints(Conformance)
    rows = csv_files.read_rows(path, Conformance._fields)
    return {row["backbone"]: Conformance(*(kinds[key](text) for key, text in row.items())) for row in rows}


def write_rows(path: Path, rows: Iterable[Conformance]) -> None:
    """Write the table as CSV, by family and name."""
    ordered = sorted(rows, key=lambda row: (row.family, row.backbone))
    write_text(path, csv_files.csv_text(Conformance._fields, (row._asdict() for row in ordered)))


def report_text(rows: Sequence[Conformance], command: str) -> str:
    """Return the report in Markdown: how many of each family train, why others do not, and every row.

    Args:
        rows: of one global and one local size.
        command: that made them.
    """
    table = pandas.DataFrame(rows).sort_values(["family", "backbone"])
    works = (table[["at_global", "at_local"]] == WORKS).astype(int)
    families = works.assign(architectures=1, family=table.family.replace("", "other")).groupby("family").sum()
    families.loc["all"] = families.sum()
    failed = table[~table.at_local.isin(["", WORKS])]
    reasons = failed.groupby(["at_local", "nearest_px"]).size().reset_index(name="architectures")
    every = table.drop(columns=["global_px", "local_px", "timm"]).replace({"nearest_px": {0: ""}})
    machine = provenance.describe("cpu")
    hardware, versions = machine["hardware"], machine["versions"]
    return f"""\
# Zoo conformance

Each architecture, built without a classifier for global views of {rows[0].global_px} px, runs forward and backward on
two random images in training mode, then on local views of {rows[0].local_px} px with the same weights.

{families[["architectures", *works]].rename(columns=HEADINGS).to_markdown()}

## Local views that do not train

{REMEDIES}
{reasons.replace({"nearest_px": {0: "none"}}).rename(columns=HEADINGS).to_markdown(index=False)}

## All architectures

{every.rename(columns=HEADINGS).to_markdown(index=False, intfmt=",")}

Command: `{command}`. Date: {datetime.date.today().isoformat()}. {hardware["cpu"]}, {hardware["num_cpus"]} CPUs; Python
{versions["python"]}, torch {versions["torch"]}, timm {TIMM_VERSION}.
"""
