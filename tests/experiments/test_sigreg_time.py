"""Claims about pipeline.experiments.sigreg_time, its report and stages/table6.

1. The published table is read whole; slopes of its times are those of its numbers.
2. Sizes along an axis differ in nothing else; the slope of a power law is its exponent.
3. Every size is timed as often as asked for, with and without gradient, sizes in turn, on one thread; larger ones are
   left out.
4. The verdict is about growth: linear times pass, quadratic ones differ, one size is not run.
5. The stage writes every published row, run or not, page, chart and claims.
"""

from __future__ import annotations

import pandas
import pytest
import torch

from pipeline.core.csv_files import read_rows
from pipeline.experiments import sigreg_time
from pipeline.experiments.sigreg_time import AXES, KINDS, Settings, Size
from pipeline.experiments.sigreg_time_report import COLUMNS, claims
from pipeline.reports.claims import read_claims
from pipeline.runtime.errors import UserError
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


def test_published_table_with_other_columns(tmp_path):
    (tmp_path / "published.csv").write_text("num_samples,mean_ms\n512,1\n")
    with pytest.raises(UserError, match=r"published\.csv must have the columns num_samples, num_slices"):
        sigreg_time.read_published(tmp_path / "published.csv")


def test_along_an_axis():
    wanted = ([512, 2048, 8192, 32768], [512, 2048, 8192], [16, 64, 256])
    assert tuple(sigreg_time.along(PUBLISHED, axis)[axis].tolist() for axis in AXES) == wanted
    assert sigreg_time.along(PUBLISHED, "num_knots")[AXES].to_numpy()[1].tolist() == [512, 512, 64]


@pytest.mark.parametrize("power", [0.0, 1.0, 1.7])
def test_slope_of_a_power_law(power):
    for axis in AXES:
        assert sigreg_time.slope_of_times(axis, times(power), "step_ms") == pytest.approx((power, 0))


def test_every_size_is_timed_in_turn_with_and_without_gradient(monkeypatch):
    seen = []

    class Loss:
        def backward(self):
            seen.append("backward")

    def sigreg(projections, directions, *, num_knots):
        assert torch.get_num_threads() == 1
        seen.append((*projections.shape, directions.shape[1], num_knots, projections.requires_grad))
        return Loss()

    monkeypatch.setattr(sigreg_time, "sigreg", sigreg)
    torch.set_num_threads(2)
    sizes = [Size(16, 8, 3), Size(100, 100, 17), Size(32, 8, 3)]
    found = sigreg_time.measure(sizes, SETTINGS, torch.device("cpu"))
    assert torch.get_num_threads() == 2
    torch.set_num_threads(1)
    assert found[[*AXES, "repetition"]].to_numpy().tolist() == [[*sizes[k], i] for i in (1, 2, 3) for k in (0, 2)]
    assert (found[KINDS] >= 0).all(axis=None)
    a_round = [call for n in (16, 32) for call in ((n, 4, 8, 3, False), (n, 4, 8, 3, True), "backward")]
    assert seen == 4 * a_round


def test_no_size_left():
    with pytest.raises(UserError, match=r"sigreg_time\.max_terms must be >= 4194304, the smallest size, got 2000"):
        sigreg_time.measure(SIZES, SETTINGS, torch.device("cpu"))


def test_verdict_is_about_growth():
    assert {claim.verdict for claim in claims(times(1.0), PUBLISHED)} == {"reproduced"}
    assert {claim.verdict for claim in claims(times(2.0), PUBLISHED)} == {"differs"}
    slow_start = [claim.verdict for claim in claims(times(0.5), PUBLISHED)]
    assert slow_start == ["differs"] * 2 + ["reproduced"] * 4  # at most linear is said of S and T alone
    few = claims(times(1.0, SIZES[:2]), PUBLISHED)
    assert [claim.verdict for claim in few] == ["not run"] * 4 + ["reproduced"] * 2


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
