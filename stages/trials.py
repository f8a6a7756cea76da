"""Tune and train one objective on one data set: `python -m stages.trials PARAMS DATASET OBJECTIVE OUT`.

OBJECTIVE may be `baselines`: the untrained backbone and raw pixels. What was found before an interruption is kept.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from pipeline.catalogue.validation import ParamsError, read_section
from pipeline.core.csv_files import csv_text
from pipeline.core.distributed import devices
from pipeline.runtime import provenance, rooms
from pipeline.runtime.errors import UserError, did_you_mean
from pipeline.runtime.files import write_json, write_text
from pipeline.schema.trials import Trials
from pipeline.settings.objective_rules import objective_problems
from pipeline.trials.bench import open_bench
from pipeline.trials.tuning import BASELINES, Memo, compare, measure_baselines
from stages import run


def main(params_path: str, dataset: str, objective: str, out: str) -> None:
    started, section = time.monotonic(), read_section(params_path, "trials", Trials)
    check(params_path, section)
    for kind, name, known in (
        ("data set", dataset, section.datasets),
        ("objective", objective, [*section.objectives, BASELINES]),
    ):
        if name not in known:
            raise UserError(f"unknown {kind} {name!r} in {params_path}{did_you_mean(name, known)}")
    bench = open_bench(section, dataset)
    memo, tried = Memo(Path(".scratch/trials"), rooms.sources("trials")), []
    if objective == BASELINES:
        rows = measure_baselines(bench, memo)
    else:
        tried, rows = compare(bench, objective, memo)
    commit = provenance.commit()
    if tried:
        write_rows(Path(out) / "tuning.csv", tried)
    write_rows(Path(out) / "rows.csv", [row | {"commit": commit} for row in rows])
    where = provenance.describe(str(bench.device), **devices.found(bench.device, bench.autocast))
    where |= {"wall_s": round(time.monotonic() - started, 1), "config": section.model_dump(mode="json")}
    write_json(Path(out) / "provenance.json", where)


def check(params_path: str, section: Trials) -> None:
    """Refuse settings that an objective does not take, of all objectives at once."""
    problems = []
    for name in section.objectives:
        weight = section.tuned(name)[1][0]
        settings = section.settings_of(section.datasets[0], name, weight=weight, epochs=section.pretrain.epochs)
        problems += objective_problems(settings, [section.lamb(name, weight)])
    if problems:
        raise ParamsError(params_path, list(dict.fromkeys(f"trials: {problem}" for problem in problems)))


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    write_text(path, csv_text(columns, [dict.fromkeys(columns) | row for row in rows]))


if __name__ == "__main__":
    run(main)
