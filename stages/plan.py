"""Print what pipelines hold and cost, without running them: `python -m stages.plan [PIPELINE ...]`.

PIPELINE is a params.yaml, a dvc.yaml, a folder that holds them, or a folder of such folders; default: params.yaml.
"""

from __future__ import annotations

from contextlib import chdir
from dataclasses import replace
from pathlib import Path

from pipeline.catalogue.validation import ParamsError
from pipeline.core.distributed.devices import announced, choose_device
from pipeline.planning.inventory import Pipeline, params_files, read_pipeline
from pipeline.planning.plan_text import conditions, pipeline_text, problems, totals
from pipeline.planning.step_time import measure
from pipeline.runtime.bars import bar
from pipeline.runtime.project import enter
from stages import run


def main(*pipelines: str) -> int:
    paths = list(dict.fromkeys(path for pipeline in pipelines or ("params.yaml",) for path in params_files(pipeline)))
    found, broken = [], []
    for path in bar("reading pipelines and their data sets", len(paths), unit="pipeline", iterable=paths):
        try:
            with chdir("."):
                found.append(replace(read_pipeline(Path(*enter([str(path)]))), path=path))
        except ParamsError as error:
            broken.append(str(error))
    show_devices(found)
    measured = measure(found)
    blocks = [pipeline_text(pipeline, measured) for pipeline in found]
    blocks += [totals(found, measured)] if any(pipeline.timed for pipeline in found) else []
    broken += problems(found, measured)
    blocks += [conditions(measured), *([f"PROBLEM: {problem}"] for problem in broken)]
    print("\n\n".join(filter(None, ("\n".join(block) for block in blocks))))
    return 1 if broken else 0


def show_devices(pipelines: list[Pipeline]) -> None:
    """Print what the cells that are left will compute with; of a GPU that torch cannot use the reason."""
    left = [task.pretrain for pipeline in pipelines for task in pipeline.timed if not task.done]
    for name, precision in dict.fromkeys((settings.device, settings.precision) for settings in left):
        announced(precision, choose_device(name))


if __name__ == "__main__":
    run(main)
