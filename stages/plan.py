"""Print what pipelines hold and cost, without running them: `python -m stages.plan [PIPELINE ...]`.

PIPELINE is a params.yaml, a dvc.yaml, a folder that holds them, or a folder of such folders; default: params.yaml.
"""

from __future__ import annotations

import sys

from pipeline.costs import measure
from pipeline.plan_text import plan_text, problems
from pipeline.planning import params_files, read_pipeline
from stages import run


def main(*pipelines: str) -> int:
    paths = [path for pipeline in pipelines or ("params.yaml",) for path in params_files(pipeline)]
    found = [read_pipeline(path) for path in dict.fromkeys(paths)]
    tasks = [task for pipeline in found for task in pipeline.tasks]
    measured = measure(tasks, note=lambda line: print(line, file=sys.stderr, flush=True))
    print("\n".join(plan_text(pipeline, measured) for pipeline in found), end="")
    return 1 if problems(tasks, measured) else 0


if __name__ == "__main__":
    run(main)
