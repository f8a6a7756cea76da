"""Claims about pipeline.experiments.trials_report and stages/trials_report.

1. A row per data set, budget and objective: means and deviations over seeds, the binomial error of the test images.
2. The verdict names the best other self-supervised objective, never `supervised`, and says whether chance could do it.
3. The stage writes table, page and chart of whatever data sets there are rows of.
"""

from __future__ import annotations

import math

import pandas
import pytest

from pipeline.experiments.trials_report import read_trials, summarise, verdict
from pipeline.runtime.errors import UserError
from stages import trials_report
from tests.figure_params import small_params

TOLD = {
    **{"dataset": "cifar10-jpeg", "backbone": "test_byobnet", "probe_site": "pooled", "num_test": 10_000, "lr": 0.003},
    **{"commit": "c0ffee", "lr_at_edge": False, "weight_at_edge": True, "holdout_top1": 0.4, "epochs": 12},
    **{"num_images": 100, "images_seen": 1200, "train_s": 3.0, "images_per_s": 400.0, "peak_memory_mib": 900.0},
    **{"collapsed": False, "train_loss": 1.0, "knn_top1": 0.4, "linear_top1_10shot": 0.2, "relative_step_time": 1.0},
}


def trained(objective: str, *scores: float, **changes) -> list[dict]:
    how = {"objective": objective, "tuned": "lambda", "lambda": 0.02, "weight": 0.02, "w": 2.6, "budget": "images"}
    return [TOLD | how | changes | {"seed": seed, "linear_top1": score} for seed, score in enumerate(scores)]


ROWS = [
    *trained("lejepa", 0.50, 0.51, 0.52),
    *trained("simclr", 0.53, 0.54, 0.55, tuned="temperature", weight=0.2, w=None),
    *trained("supervised", 0.8, 0.8, 0.8, tuned="label_smoothing", weight=0.1, w=None),
    *trained("random_init", 0.3, budget="none"),
]


def test_means_deviations_and_binomial_error():
    found = summarise(pandas.DataFrame(ROWS)).set_index("objective").loc["lejepa"]
    assert (found.seeds, found.num_collapsed, found.commit) == (3, 0, "c0ffee")
    assert (found.linear_top1, found.linear_top1_std) == pytest.approx((0.51, 0.01))
    assert found.linear_top1_binomial == pytest.approx(math.sqrt(0.51 * 0.49 / 10_000))


@pytest.mark.parametrize(("others", "judged"), [((0.53, 0.54, 0.55), "more than two"), ((0.515,) * 3, "within two")])
def test_the_verdict_knows_chance(others, judged):
    rows = [*ROWS[:3], *trained("simclr", *others), *ROWS[6:9]]
    told = verdict(summarise(pandas.DataFrame(rows)), "lejepa")
    assert "lejepa has 51.0" in told and "simclr" in told and judged in told and " supervised," not in told


@pytest.mark.seconds
def test_the_stage_writes_its_reports(tmp_path, monkeypatch):
    params = small_params(tmp_path, "objectives_laptop")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"there is no rows\.csv"):
        read_trials(tmp_path / "runs")
    for name, rows in (("one", ROWS[:6]), ("baselines", ROWS[-1:])):
        (tmp_path / "runs" / name).mkdir(parents=True)
        pandas.DataFrame(rows).to_csv(tmp_path / "runs" / name / "rows.csv", index=False)
    trials_report.main(params, "runs")
    page = (tmp_path / "reports/objectives_laptop.md").read_text()
    assert "## cifar10-jpeg" in page and "lambda 0.02† (w 2.6)" in page and "*random initialisation*" in page
    assert len(pandas.read_csv(tmp_path / "reports/objectives_laptop.csv")) == 3
    assert "<svg" in (tmp_path / "reports/plots/objectives_laptop.svg").read_text()
