"""Claims about pipeline.reports.render and pipeline.reports.comparison.

1. Percentages, points and labels are written as documented; what rounds to zero has no sign.
2. Every learned number stands with its random-init and raw-pixel number and the difference.
3. The best of a column is bold, baselines included, and the text says so where a baseline wins or ties.
4. The number of seeds is told, and the meaning of ± follows it; losses and costs have a spread as well.
5. A collapsed run is a word with the epoch where its numbers would stand.
6. The page is self-contained, holds the CSV, filters by what has several values, and shows names literally.
"""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pandas as pd
import pytest

from pipeline.reports import comparison
from pipeline.reports.render import (
    Section,
    literal,
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
    base |= {"num_collapsed": 0, "alarms": {}, "w": 3.37, "objective": "lejepa"}
    base |= {"train_s": 75.2, "images_per_s": 408.4, "peak_memory_mib": 1022}
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
    filters = {"data set": ["digits"], "backbone": ["a", "b"]}
    return page(title, [Section("One", to_html(markdown))], filters=filters, downloads=downloads, footer="end")


def test_numbers():
    assert [points(value) for value in (0.0415, -0.0415, 0.0, -0.0004, None)] == ["+4.2", "−4.2", "±0.0", "±0.0", "–"]
    assert [percent(value) for value in (0.8264, 1.0, None, float("nan"))] == ["82.6", "100.0", "–", "–"]
    assert percent(0.82647, 2) == "82.65"
    names = ["linear_top1", "knn_top1", "linear_top1_1shot", "linear_top1_10shot"]
    assert [comparison.score_label(name) for name in names] == ["linear", "k-NN", "1-shot", "10-shot"]


def test_row():
    assert line_of(markdown([row()])) == (
        "| test_vit | 0.05 | **82.6**<br>*random 74.3 (+8.3)*<br>*pixels 80.1 (+2.5)* | "
        "75.0<br>*random **76.0** (−1.0)*<br>*pixels 74.5 (+0.5)* | 0.25 | 12 | 3.4 | 75 | 408 | 1022 | "
        "[`01234567`](http://127.0.0.1:5000/#/experiments/7/runs/0123456789abcdef) |"
    )
    assert "| `01234567` |" in line_of(markdown([row()], address=""))


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
    several = markdown([row(num_seeds=3, linear_top1_std=0.0042, train_loss_std=0.0123, train_s_std=2.7)])
    assert "Means over n training seeds" in several and "| 3 | **82.6** ± 0.4<br>" in several
    assert "| 0.25 ± 0.012 | 12 | 3.4 | 75 ± 3 | 408 | 1022 |" in several


def test_objectives_are_named_where_there_are_others():
    assert "objective" not in markdown([row()])
    assert "| test_vit | 0.05 | simclr | " in markdown([row(objective="simclr")])


def test_a_collapsed_run_is_a_word():
    text = markdown([collapsed_row(), row(backbone="b")])
    entries = line_of(text).split(" | ")
    assert entries[:3] == ["| test_vit †", "0.05", "collapsed (epoch 3)<br>*random 74.3*<br>*pixels 80.1*"]
    assert "\n† test_vit, λ 0.05, seed 0: collapse at epoch 3\n" in text
    assert "A run that collapsed has no learned number and is left out of means, gains and charts." in text


def test_the_page_is_self_contained():
    text = shown(markdown([row()]), **{"a.csv": "x,y\n1,2\n"})
    reader = Reader(text)
    assert not {"link", "iframe", "object"} & set(reader.tags) and "url(" not in text and "@import" not in text
    addresses = [value for name, value in reader.attributes if name in ("href", "src")]
    assert addresses == ["#s0-one", addresses[1], ADDRESS.format(run_id="0123456789abcdef")]
    assert addresses[1] == "data:text/csv;charset=utf-8,x%2Cy%0A1%2C2%0A"
    assert re.findall("<option[^>]*>([^<]*)", text) == ["every backbone", "a", "b"]
    assert "82.6</strong><br>" in text and "<h3>digits</h3>" in text and "text-align:right" in text


def test_names_are_literal():
    text = shown(markdown([row(dataset=EVIL, backbone=EVIL, run_ids=[EVIL])], [EVIL], address=""), title=EVIL)
    reader = Reader(text)
    assert reader.tags.count("script") == 1 and text.count("&lt;script&gt;alert(&quot;x&quot;)") >= 3
    line = line_of(markdown([row(backbone=EVIL)]), "| \\<script")
    assert len(re.findall(r"(?<!\\)\|", line)) == 12
    assert "`*&amp;amp;" in to_html(literal(EVIL))
