"""Which architectures train at which view sizes: one step each, in a process of its own, and the report on them."""

from __future__ import annotations

import csv
import datetime
import io
import multiprocessing
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple, get_type_hints

from torch import nn

from pipeline.models.backbones import TIMM_VERSION, backbone_arguments, create_backbone, forward_backward
from pipeline.runtime import provenance
from pipeline.runtime.errors import UserError
from pipeline.runtime.files import write_text
from pipeline.zoo.families import family_of

WORKS = "works"
OTHER_PX = (96, 112, 128, 160, 192)  # multiples of 16 or 32, tried where the local size fails
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

    Args:
        check: function of a module.
        arguments: what it is called with.
        limit_s: time after which the process is ended.

    Returns:
        What `check` returned.

    Raises:
        UserError: no answer in time, or a process that died.
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
    with path.open(encoding="utf-8", newline="") as file:
        table = csv.DictReader(file)
        if tuple(table.fieldnames or ()) != Conformance._fields:
            raise UserError(f"{path} has other columns than {', '.join(Conformance._fields)}; remove it")
        rows = [Conformance(**{key: kinds[key](text) for key, text in row.items()}) for row in table]
    return {row.backbone: row for row in rows}


def write_rows(path: Path, rows: Iterable[Conformance]) -> None:
    """Write the table as CSV, by family and name."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(Conformance._fields)
    writer.writerows(sorted(rows, key=lambda row: (row.family, row.backbone)))
    write_text(path, text.getvalue())


def facts(command: str) -> dict[str, str]:
    """Return what stands at the top of a report: date, hardware, versions and command."""
    told = provenance.describe("cpu")
    return {
        "Date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "Hardware": f"{told['hardware']['cpu']}, {told['hardware']['num_cpus']} CPUs",
        "Versions": ", ".join(f"{name} {told['versions'][name]}" for name in ("python", "torch", "timm")),
        "Command": f"`{command}`",
    }


def report_text(rows: Sequence[Conformance], facts: dict[str, str]) -> str:
    """Return the report in Markdown: how many of each family train, why others do not, and every row.

    Args:
        rows: of one global and one local size.
        facts: of `facts`.
    """
    rows = sorted(rows, key=lambda row: (row.family, row.backbone))
    global_px, local_px = rows[0].global_px, rows[0].local_px
    lines = ["# Zoo conformance", "", *(f"- {name}: {value}" for name, value in facts.items())]
    lines += [
        "- Each architecture, built without a classifier for the global size, runs forward and backward on two random",
        "  images in training mode, at both sizes with the same weights.",
        "",
        f"| family | architectures | train at {global_px} px | train at {local_px} px |",
        "| --- | --: | --: | --: |",
        *_family_lines(rows),
        "",
        f"## What does not train at {local_px} px",
        "",
        REMEDIES,
        "| architectures | reason | nearest size that works, px |",
        "| --: | --- | --: |",
    ]
    failed = Counter((row.at_local, row.nearest_px or "none") for row in rows if row.at_local not in ("", WORKS))
    lines += [f"| {count} | {reason} | {nearest} |" for (reason, nearest), count in sorted(failed.items(), key=str)]
    lines += [
        "",
        "## All architectures",
        "",
        f"| backbone | family | parameters | embedding | {global_px} px | {local_px} px | nearest |",
        "| --- | --- | --: | --: | --- | --- | --: |",
    ]
    lines += [
        f"| {row.backbone} | {row.family} | {row.num_params:,} | {row.embed_dim} | {row.at_global} | {row.at_local} "
        f"| {row.nearest_px or ''} |"
        for row in rows
    ]
    return "\n".join(lines) + "\n"


def _family_lines(rows: Sequence[Conformance]) -> list[str]:
    families = [*dict.fromkeys(row.family for row in rows), None]
    lines = []
    for family in families:
        some = [row for row in rows if family in (row.family, None)]
        counts = [len(some), sum(row.at_global == WORKS for row in some), sum(row.at_local == WORKS for row in some)]
        lines.append(f"| {'all' if family is None else family or 'other'} | {' | '.join(map(str, counts))} |")
    return lines
