"""Claims about pipeline.experiments.sigreg_time, its report and stages/table6.

1. The published table is read whole; slopes of its times are those of its numbers; that of a power law is its exponent.
2. The verdict is about growth: linear times pass, quadratic ones differ, one size is not run.
3. The stage writes every published row, run or not, page, chart and claims.
"""

from __future__ import annotations

import pandas
import pytest

from pipeline.core.csv_files import read_rows
from pipeline.experiments import sigreg_time
from pipeline.experiments.sigreg_time import AXES, KINDS, Settings, Size
from pipeline.experiments.sigreg_time_report import COLUMNS, claims
from pipeline.reports.claims import read_claims
from stages import table6
from tests.figure_params import PAPER, small_params

PUBLISHED = sigreg_time.read_published(PAPER / "table6/published.csv")
SIZES = [Size(*row) for row in PUBLISHED[AXES].to_numpy().tolist()]
SETTINGS = Settings(proj_dim=4, num_repetitions=3, max_terms=2000, seed=0)


def times(power, sizes=SIZES):
    """Times that grow with N S T to a power, two rounds."""
    rows = [(*s, i, (1 + 0.1 * i) * s.terms**power, 2.0 * s.terms**power) for s in sizes for i in (1, 2)]
    return pandas.DataFrame(rows, columns=[*AXES, "repetition", *KINDS])


def test_published_table():
    assert len(PUBLISHED) == 9 and PUBLISHED.loc[5].tolist() == [8192, 8192, 16, 8.685009, 0.038829]
    slopes = [sigreg_time.published_slope(axis, PUBLISHED) for axis in AXES]
    assert slopes == pytest.approx([0.980, 0.132, 0.108], abs=1e-3)


@pytest.mark.parametrize("power", [0.0, 1.0, 1.7])
def test_slope_of_a_power_law(power):
    for axis in AXES:
        assert sigreg_time.slope_of_times(axis, times(power), "step_ms") == pytest.approx((power, 0))


def test_verdict_is_about_growth():
    assert {claim.verdict for claim in claims(times(1.0), PUBLISHED)} == {"reproduced"}
    assert {claim.verdict for claim in claims(times(2.0), PUBLISHED)} == {"differs"}
    slow_start = [claim.verdict for claim in claims(times(0.5), PUBLISHED)]
    assert slow_start == ["differs"] * 2 + ["reproduced"] * 4  # at most linear is said of S and T alone
    few = claims(times(1.0, SIZES[:2]), PUBLISHED)
    assert [claim.verdict for claim in few] == ["not run"] * 4 + ["reproduced"] * 2


@pytest.mark.seconds
def test_stage(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    table6.main(small_params(tmp_path, "table6", proj_dim=8))
    rows = read_rows(tmp_path / "reports/table6.csv", COLUMNS)
    assert [int(row["num_repetitions"]) for row in rows] == [2, 2, 0, 2, 0, 0, 0, 2, 0]
    assert all((float(row["step_median_ms"] or 0) > 0) == (row["num_repetitions"] == "2") for row in rows)
    assert len(read_claims(tmp_path / "reports/claims/table6.csv")) == 6
    page = (tmp_path / "reports/table6.md").read_text(encoding="utf-8")
    assert page.count("| not run | not run |") == 5 and "(plots/table6.svg)" in page
    assert "V100, published" in (tmp_path / "reports/plots/table6.svg").read_text(encoding="utf-8")
