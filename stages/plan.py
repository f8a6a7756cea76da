"""Print what pipelines hold and cost, without running them: `python -m stages.plan [PIPELINE ...]`.

PIPELINE is a params.yaml, a dvc.yaml, a folder that holds them, or a folder of such folders; default: params.yaml.
"""

from __future__ import annotations

import sys

from pipeline.costs import measure
from pipeline.plan_text import pipeline_text, problems, speeds_text, totals
from pipeline.planning import params_files, read_pipeline
from pipeline.validation import ParamsError
from stages import run


def main(*pipelines: str) -> int:
    paths = [path for pipeline in pipelines or ("params.yaml",) for path in params_files(pipeline)]
    found, broken = [], []
    for path in dict.fromkeys(paths):
        try:
            found.append(read_pipeline(path))
        except ParamsError as error:
            broken.append(str(error))
    tasks = [task for pipeline in found for task in pipeline.tasks]
    measured = measure(tasks, note=lambda line: print(line, file=sys.stderr, flush=True))
    blocks = [pipeline_text(pipeline, measured) for pipeline in found]
    if tasks:
        blocks += ["\n".join(["All together, each pretraining once", *totals(found, measured)])]
    blocks += ["\n".join(speeds_text(measured))]
    blocks += [f"PROBLEM: {problem}" for problem in broken + problems(tasks, measured)]
    print("\n\n".join(block for block in blocks if block))
    return 1 if broken or problems(tasks, measured) else 0


if __name__ == "__main__":
    run(main)
