"""Claims about pipeline.reports.run_facts.

1. Rates and sites come from the files of the training and of the probe; what a run of before lacks is nan.
2. Seeds are put together: mean seconds, largest memory, every commit; nothing of no seed.
3. The line under a table says what its runs share and the range of what differs.
"""

from __future__ import annotations

import json
import math

import pandas as pd
import pytest

from pipeline.reports.run_facts import FACTS, facts_line, run_facts, together

SUMMARY = {"images_seen": 1200, "w": 2.6, "num_samples": 128, "pooling": "each view", "convention": "(1 - l) a + l b"}


@pytest.fixture
def rows(tmp_path) -> pd.DataFrame:
    (tmp_path / "probe.json").write_text(json.dumps({"probe": {"site": "pooled"}}))
    found = []
    for train_s, commit in ((10.0, "c0ffee"), (30.0, "decaf")):
        (tmp_path / "metrics.json").write_text(json.dumps(SUMMARY))
        made = {"train_s": train_s, "peak_memory_mib": 10 * train_s, "commit": commit}
        (tmp_path / "provenance.json").write_text(json.dumps(made))
        found.append(run_facts(tmp_path, tmp_path / "probe.json"))
    return pd.DataFrame(found)


def test_facts_of_a_run(rows, tmp_path):
    assert rows["images_per_s"].tolist() == [120.0, 40.0] and rows["probe_site"].unique().tolist() == ["pooled"]
    (tmp_path / "provenance.json").unlink()
    old = run_facts(tmp_path, tmp_path / "none.json")
    assert list(old) == list(FACTS) and old["w"] == 2.6
    assert all(math.isnan(old[name]) for name in ("train_s", "images_per_s", "commit", "probe_site"))


def test_seeds_are_put_together(rows):
    found = together(rows)
    assert (found["train_s"], found["images_per_s"], found["peak_memory_mib"]) == (20.0, 80.0, 300.0)
    assert found["commit"] == "c0ffee decaf"
    assert all(math.isnan(value) for value in together(rows.iloc[:0]).values())


def test_the_line_under_a_table(rows):
    told = facts_line(rows)
    for part in ("N: 128", "images seen: 1200;", "seconds: 10 to 30", "images/s: 40 to 120", "probe at: pooled"):
        assert part in told
    assert facts_line(pd.DataFrame(columns=list(FACTS))) == ""
