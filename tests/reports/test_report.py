"""Claims about pipeline.reports.render and pipeline.reports.comparison.

1. Percentages, points and labels are written as documented; what rounds to zero has no sign.
2. Every learned number stands with its random-init and raw-pixel number and the difference.
3. The best of a column is bold, baselines included, and the text says so where a baseline wins or ties.
4. The number of seeds is told, and the meaning of ± follows it.
5. Missing cells and run ids are shown (as links where the experiment is known), unmeasured numbers as a dash.
6. A collapsed run is a word with the epoch where its numbers would stand, or a count where other seeds are sound;
   every alarm is named under its table; what was left out of gains is told.
7. The page is self-contained, shows names literally, and takes pictures into itself or links them with their size.
"""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pandas as pd
import pytest
from PIL import Image

from pipeline.reports import comparison
from pipeline.reports.render import (
    Section,
    csv_text,
    figure,
    fold,
    literal,
    markdown_table,
    page,
    percent,
    points,
    to_html,
)

ADDRESS = "http://127.0.0.1:5000/#/experiments/7/runs/{run_id}"
SCORES = ["linear_top1", "knn_top1"]
EVIL = '<script>alert("x")</script>|`*&amp;'


def row(**changes):
    base = {"dataset": "digits", "backbone": "test_vit", "lambda": 0.05, "num_seeds": 1, "num_params": 330_000}
    base |= {"num_collapsed": 0, "alarms": {}}
    base |= {"epochs": 12, "train_loss": 0.25, "run_ids": ["0123456789abcdef"]}
    base |= {"linear_top1": 0.826, "random_init_linear_top1": 0.743, "raw_pixels_linear_top1": 0.801}
    return base | {"knn_top1": 0.75, "random_init_knn_top1": 0.76, "raw_pixels_knn_top1": 0.745} | changes


def collapsed_row(**changes):
    told = {"num_seeds": 0, "num_collapsed": 1, "alarms": {0: {"collapse": 3}}}
    return row(**(told | {"linear_top1": None, "knn_top1": None} | changes))


def gains(**changes):
    found = {"dataset": "digits", "num_cells": 2, "num_collapsed": 0}
    return pd.DataFrame([found | {"linear_top1": 0.032, "linear_top1_better": 1, "linear_top1_n": 2} | changes])


def markdown(rows, missing=(), address=ADDRESS):
    return comparison.markdown("LeJEPA", "1 of 1 cells.", pd.DataFrame(rows), gains(), missing, 1, address)


def line_of(text, start="| test_vit"):
    (line,) = [line for line in text.splitlines() if line.startswith(start)]
    return line


class Reader(HTMLParser):
    """Collects tags and addresses, and checks that tags nest."""

    VOID = frozenset({"meta", "br", "img", "input"})

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.attributes = [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def shown(markdown, title="t", **downloads):
    return page(title, [Section("One", to_html(markdown))], downloads=downloads, footer="end")


def test_numbers():
    assert [points(value) for value in (0.0415, -0.0415, 0.0, -0.0004, None)] == ["+4.2", "−4.2", "±0.0", "±0.0", "–"]
    assert [percent(value) for value in (0.8264, 1.0, None, float("nan"))] == ["82.6", "100.0", "–", "–"]
    assert percent(0.82647, 2) == "82.65"
    names = ["linear_top1", "knn_top1", "linear_top1_1shot", "linear_top1_10shot"]
    assert [comparison.score_label(name) for name in names] == ["linear", "k-NN", "1-shot", "10-shot"]


def test_a_table_keeps_its_shape():
    table = pd.DataFrame({"a": ["x|y", None], "b": ["two\nlines", ""], "c": ["**1**", "−2"]})
    assert markdown_table(table) == "| a | b | c |\n|:--|:--|--:|\n| x\\|y | two lines | **1** |\n| – | – | −2 |\n"
    assert markdown_table(table[:0]).startswith("| a | b | c |\n")
    scores = pd.DataFrame({"a": ["x", "y"], "b": ["81.3", "collapsed (epoch 3)"], "c": ["1", "collapsed"]})
    assert "|:--|--:|:--|" in markdown_table(scores), "a run that collapsed leaves a column one of numbers"
    assert csv_text(pd.DataFrame({"x": [1, 2], "y": [0.123456789, None]})) == "x,y\n1,0.123457\n2,\n"


def test_row():
    assert line_of(markdown([row()])) == (
        "| test_vit | 0.05 | **82.6**<br>*random 74.3 (+8.3)*<br>*pixels 80.1 (+2.5)* | "
        "75.0<br>*random **76.0** (−1.0)*<br>*pixels 74.5 (+0.5)* | 0.25 | 12 | "
        "[`01234567`](http://127.0.0.1:5000/#/experiments/7/runs/0123456789abcdef) |"
    )
    assert "| `01234567` |" in line_of(markdown([row()], address=""))


def test_equal_looks_are_equally_best():
    rows = pd.DataFrame([row(linear_top1=0.8262), row(linear_top1=0.8258, backbone="b")])
    assert all(cell.startswith("**82.6**") for cell in comparison.score_cells(rows, "linear_top1", 1))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "k-NN: the best random initialisation beats the best learned backbone, 76.0 against 75.0."),
        ({"raw_pixels_linear_top1": 0.826}, "linear: the probe on raw pixels equals the best learned backbone, 82.6"),
        ({"knn_top1": 0.9}, "In every column the best number is a learned one."),
        ({"linear_top1": None, "knn_top1": None}, "There is no learned number to compare."),
    ],
)
def test_verdict(changes, said):
    assert said in markdown([row(**changes)])


def test_number_of_seeds_is_told():
    assert "(n = 1); ± is the standard deviation over the few-shot draws" in markdown([row()])
    several = markdown([row(num_seeds=3, linear_top1_std=0.0042)])
    assert "Means over n training seeds" in several and "| 3 | **82.6** ± 0.4<br>" in several


def test_what_was_not_measured_is_a_dash():
    line = line_of(markdown([row(raw_pixels_linear_top1=None, knn_top1=None, run_ids=[])]))
    assert "*pixels –* |" in line and "| –<br>*random **76.0***<br>" in line and line.endswith("| – |")


def test_gains_tell_what_was_left_out():
    assert "| digits | 2 | +3.2 (1 of 2) |" in markdown([row()])
    some = markdown_table(comparison.gains_table(gains(num_collapsed=1), 1))
    assert "| digits | 2 (1 collapsed, left out) | +3.2 (1 of 2) |" in some
    none = pd.DataFrame([{"dataset": "digits", "num_cells": 0, "num_collapsed": 3}])
    assert "random initialisation was not measured" in markdown_table(comparison.gains_table(none, 1))
    assert comparison.counted(none, 4) == "3 of 4 cells have results, 3 of them collapsed"


def test_a_collapsed_run_is_a_word():
    text = markdown([collapsed_row(), row(backbone="b")])
    entries = line_of(text).split(" | ")
    assert entries[:3] == ["| test_vit †", "0.05", "collapsed (epoch 3)<br>*random 74.3*<br>*pixels 80.1*"]
    assert "\n† test_vit, λ 0.05, seed 0: collapse at epoch 3\n" in text
    assert "A run that collapsed has no learned number and is left out of means, gains and charts." in text


def test_collapsed_seeds_are_counted():
    alarms = {1: {"collapse": 3}, 2: {"collapse": 7}}
    some = markdown([row(num_seeds=1, num_collapsed=2, alarms=alarms)])
    assert "| 1 | **82.6**<br>2 of 3 collapsed<br>*random" in line_of(some)
    every = markdown([collapsed_row(num_collapsed=2, alarms=alarms)])
    assert "| 0 | collapsed (epochs 3, 7)<br>*random" in line_of(every)


def test_other_alarms_leave_the_numbers():
    text = markdown([row(alarms={0: {"explosion": 5, "starvation": 2}})])
    assert "† test_vit, λ 0.05, seed 0: explosion at epoch 5, starvation at epoch 2" in text
    assert "| test_vit † | 0.05 | **82.6**<br>*random 74.3 (+8.3)*" in line_of(text)
    assert "†" not in markdown([row()])


def test_missing_cells_are_listed():
    lines = ["digits--a--lambda0.1--seed0: no probe/metrics.json; run: dvc repro"]
    assert f"## Missing cells\n\n- {lines[0]}\n" in markdown([row()], lines)
    assert "Missing cells" not in markdown([row()])


def test_the_page_is_self_contained():
    text = shown(markdown([row()]), **{"a.csv": "x,y\n1,2\n"})
    reader = Reader(text)
    assert not {"link", "iframe", "object"} & set(reader.tags) and "url(" not in text and "@import" not in text
    addresses = [value for name, value in reader.attributes if name in ("href", "src")]
    assert addresses == ["#s0-one", ADDRESS.format(run_id="0123456789abcdef"), addresses[-1]]
    assert addresses[-1] == "data:text/csv;charset=utf-8,x%2Cy%0A1%2C2%0A"
    assert "82.6</strong><br>" in text and "<h3>digits</h3>" in text and "text-align:right" in text


def test_names_are_literal():
    text = shown(markdown([row(dataset=EVIL, backbone=EVIL, run_ids=[EVIL])], [EVIL], address=""), title=EVIL)
    reader = Reader(text)
    assert reader.tags.count("script") == 1 and text.count("&lt;script&gt;alert(&quot;x&quot;)") >= 3
    line = line_of(markdown([row(backbone=EVIL)]), "| \\<script")
    assert len(re.findall(r"(?<!\\)\|", line)) == 8
    assert "`*&amp;amp;" in to_html(literal(EVIL))


def test_pictures(tmp_path):
    (tmp_path / "density").mkdir()
    (tmp_path / "density/a b.svg").write_text("<svg></svg>")
    Image.new("RGB", (30, 20)).save(tmp_path / "density/c.png")
    text = to_html(
        figure("What [it] shows", "a b.svg") + "\n\n" + figure("A sheet", "c.png"), tmp_path / "density", tmp_path
    )
    assert text.count("<figure>") == 2 and "<svg></svg>" in text and "What [it] shows</figcaption>" in text
    assert '<img src="density/c.png" alt="A sheet" width="30" height="20" loading="lazy">' in text
    Reader(text)
    with pytest.raises(FileNotFoundError):
        to_html(figure("x", "gone.svg"), tmp_path)
    assert fold("a < b", "<p>c</p>", is_open=True) == "<details open><summary>a &lt; b</summary><p>c</p></details>"
