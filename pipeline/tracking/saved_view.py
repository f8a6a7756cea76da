"""The view of the runs that MLflow opens: which columns and charts. MLflow keeps it as a tag of the experiment.

Source: MLflow's savedViewEnvelope.ts (pull requests 24359 and 24360, since 3.15): {name, createdAt, state}, in which
state is JSON, deflated, of the fields of ExperimentPageUIState and of the search. No API promises this format.
"""

from __future__ import annotations

import base64
import json
import zlib
from typing import Any

SEEN = ("3.17",)
"""Versions of MLflow, without their patch, whose pages were seen in a browser to show the view (tests/tracking)."""
VIEW = "lejepa"
TAG = f"mlflow.sharedViewState.{VIEW}"
NAME = "LeJEPA: lambda, losses, accuracies"
CREATED_MS = 1_796_000_000_000

PARAMS = ("dataset", "backbone", "objective", "lambda", "seed")
LOSSES = ("train/loss", "train/pred_loss", "train/sigreg_loss")
COMMON = {"useGlobalLineSmoothing": True, "useGlobalXaxisKey": True, "scaleType": "linear", "xAxisScaleType": "linear"}
SCORES = ("probe/linear_top1", "probe/knn_top1", "probe/linear_top1_10shot", "probe/random_init_linear_top1")


def tags() -> dict[str, str]:
    """Return the tags of the experiment: the view, and that its runs are trainings, which chooses MLflow's pages."""
    packed = base64.b64encode(zlib.compress(json.dumps(_state(), separators=(",", ":")).encode(), 9)).decode()
    envelope = {"name": NAME, "createdAt": CREATED_MS, "state": f"deflate;{packed}"}
    return {TAG: json.dumps(envelope), "mlflow.experimentKind": "custom_model_development"}


def addresses(pages: str, experiment_id: str, version: str) -> str:
    """Return lines with the addresses of the view and of its charts, or of the plain page for another version."""
    runs = f"{pages}/#/experiments/{experiment_id}/runs"
    if not is_seen(version):
        return f"{runs}\nMLflow {version} was not tried with the prepared view: this is its plain page"
    view = f"{runs}?viewStateShareKey={VIEW}"
    return f"{view}\ncharts: {view}&compareRunsMode=CHART"


def is_seen(version: str) -> bool:
    """Whether the pages of a version of MLflow were seen to show the view."""
    return version.rpartition(".")[0] in SEEN


def _state() -> dict[str, Any]:
    columns = [f"params.`{name}`" for name in PARAMS] + [f"metrics.`{name}`" for name in (*SCORES[:2], *LOSSES)]
    columns += [f"metrics.`{name}`" for name in SCORES[2:]]
    sections = {
        "Accuracy against lambda": [
            _card("SCATTER", xaxis=_axis("PARAM", "lambda"), yaxis=_axis("METRIC", name)) for name in SCORES[:2]
        ],
        "Loss curves": [
            _card("LINE", metricKey=name, selectedMetricKeys=[name], xAxisKey="step", lineSmoothness=0, **COMMON)
            for name in LOSSES
        ],
        "Axes, losses and accuracies": [
            _card(
                "PARALLEL",
                selectedParams=["dataset", "backbone", "lambda"],
                selectedMetrics=["train/loss", *SCORES[:2]],
                showAllRuns=True,
            )
        ],
    }
    return {
        "searchFilter": "",
        "orderByKey": "metrics.`probe/linear_top1`",
        "orderByAsc": False,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "selectedColumns": columns,
        "columnOrder": ["attributes.`Run Name`", *columns],
        "columnWidths": dict.fromkeys(columns, 125),
        "runsHiddenMode": "SHOW_ALL",
        "viewMaximized": False,
        "runListHidden": False,
        "isAccordionReordered": True,
        "useGroupedValuesInCharts": True,
        "hideEmptyCharts": True,
        "groupBy": None,
        "groupsExpanded": {},
        "compareRunSections": [
            {"uuid": name, "name": name, "display": True, "isReordered": False, "deleted": False, "isGenerated": False}
            for name in sections
        ],
        "compareRunCharts": [
            {**card, "uuid": f"{name} {index}", "metricSectionId": name}
            for name, cards in sections.items()
            for index, card in enumerate(cards)
        ],
        "globalLineChartConfig": {"xAxisKey": "step", "lineSmoothness": 0, "selectedXAxisMetricKey": ""},
    }


def _axis(kind: str, key: str) -> dict[str, str]:
    return {"type": kind, "key": key}


def _card(kind: str, **told: Any) -> dict[str, Any]:
    return {"type": kind, "runsCountToCompare": 100, "deleted": False, "isGenerated": False, **told}
