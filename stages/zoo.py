"""Try every backbone at the sizes of global and local views: `python -m stages.zoo [FILE ...] [--global-px 224] ...`.

FILE is a list of timm names, one a line, or a params.yaml; default: the zoo of figure 9 (eight families, 20M
parameters). Writes reports/zoo.csv after each one and goes on where it stopped; then reports/zoo.md.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from pipeline.runtime.bars import bar
from pipeline.runtime.errors import UserError
from pipeline.runtime.files import write_text
from pipeline.settings.params import backbone_rule, load_params, read_backbones
from pipeline.zoo import conformance
from pipeline.zoo.families import FAMILIES, expand
from stages import run

MAX_PARAMS = 20e6


def main(*arguments: str) -> int:
    options = parse(arguments)
    names = dict.fromkeys(name for path in options.files for name in names_of(Path(path)))
    if not options.files:
        names = dict.fromkeys(entry.name for entry in expand(list(FAMILIES), MAX_PARAMS))
    if not names:
        raise UserError(f"there are no names in {', '.join(options.files)}")
    sizes, table = (options.global_px, options.local_px), options.reports / "zoo.csv"
    rows = conformance.read_rows(table)
    left = [name for name in names if not (name in rows and is_about(rows[name], conformance.untried(name, *sizes)))]
    shown = bar("trying", len(left), unit="architecture", iterable=left)
    for name in shown:
        try:
            rows[name] = conformance.isolated(conformance.conformance, name, *sizes, limit_s=options.limit_s)
        except UserError as error:
            rows[name] = conformance.untried(name, *sizes, at_global=str(error))
        conformance.write_rows(table, rows.values())
        shown.write(f"{name}: {rows[name].at_global}, {rows[name].at_local}")
    command = " ".join(["python -m stages.zoo", *arguments])
    write_text(options.reports / "zoo.md", conformance.report_text([rows[name] for name in names], command))
    return 0


def is_about(row: conformance.Conformance, other: conformance.Conformance) -> bool:
    return (row.timm, row.global_px, row.local_px) == (other.timm, other.global_px, other.local_px)


def parse(arguments: tuple[str, ...]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m stages.zoo", description=sys.modules[__name__].__doc__)
    parser.add_argument("files", nargs="*", metavar="FILE")
    parser.add_argument("--global-px", type=int, default=224)
    parser.add_argument("--local-px", type=int, default=98, help="0: none")
    parser.add_argument("--limit-s", type=float, default=120, help="for one architecture")
    parser.add_argument("--reports", type=Path, default=Path("reports"))
    return parser.parse_args(arguments)


def names_of(path: Path) -> list[str]:
    if path.suffix != ".yaml":
        return read_backbones(path)
    rule = backbone_rule(path)
    return (
        [entry.name for entry in expand(rule.families, rule.max_params)] if rule else load_params(path).grid.backbones
    )


if __name__ == "__main__":
    run(main)
