"""Claims about pipeline.reports.comparison, pipeline.reports.comparison_html and pipeline.reports.html.

1. Percentages, points and labels are written as documented; what rounds to zero has no sign.
2. Every learned number stands with its random-init and raw-pixel number and the difference, in both formats.
3. The best of a column is marked, baselines included, and the text says so where a baseline wins or ties.
4. The number of seeds is told, and the meaning of ± follows it.
5. Missing cells and run ids are shown (as links where the experiment is known), unmeasured numbers as a dash.
6. A collapsed run is a word with the epoch where its numbers would stand, or a count where other seeds are sound;
   every alarm is named under its table; what was left out of gains is told.
7. index.html is self-contained, escapes every name, and takes further sections.
"""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest

from pipeline.reports import comparison, comparison_html, html
from pipeline.reports.comparison import Style

STYLE = Style(1, "http://127.0.0.1:5000/#/experiments/7/runs/{run_id}")
SCORES = ["linear_top1", "knn_top1"]


def row(**changes):
    base = {"dataset": "digits", "backbone": "test_vit", "lambda": 0.05, "num_seeds": 1, "num_params": 330_000}
    base |= {"num_collapsed": 0, "alarms": {}}
    base |= {"epochs": 12, "train_loss": 0.25, "run_ids": ["0123456789abcdef"]}
    base |= {"linear_top1": 0.826, "random_init_linear_top1": 0.743, "raw_pixels_linear_top1": 0.801}
    return base | {"knn_top1": 0.75, "random_init_knn_top1": 0.76, "raw_pixels_knn_top1": 0.745} | changes


def gain(dataset="digits", **changes):
    gains = {"linear_top1": {"mean": 0.032, "num_better": 1, "n": 2}}
    return {"dataset": dataset, "num_cells": 2, "num_collapsed": 0, "gains": gains} | changes


def collapsed_row(**changes):
    told = {"num_seeds": 0, "num_collapsed": 1, "alarms": {0: {"collapse": 3}}}
    return row(**(told | {"linear_top1": None, "knn_top1": None} | changes))


def markdown(rows, missing=()):
    return comparison.markdown("LeJEPA benchmark", rows, [gain()], SCORES, missing, STYLE)


def page_of(rows, missing=(), charts=None, title="LeJEPA benchmark"):
    found = comparison_html.comparison(rows, [gain(rows[0]["dataset"])], SCORES, charts or {}, missing, STYLE)
    return html.page(title, "16 of 16 cells", found)


class Reader(HTMLParser):
    """Collects tags, addresses and ids, and checks that tags nest."""

    VOID = frozenset({"meta", "br", "wbr"})

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


@pytest.mark.parametrize(
    ("value", "text"), [(0.0415, "+4.2"), (-0.0415, "−4.2"), (0.0, "±0.0"), (0.0004, "±0.0"), (-0.0004, "±0.0")]
)
def test_points(value, text):
    assert Style(1).points(value) == text


def test_percent():
    assert [Style(1).percent(v) for v in (0.8264, 1.0, None)] == ["82.6", "100.0", "–"]
    assert Style(2).percent(0.82647) == "82.65"


def test_labels():
    names = ["linear_top1", "knn_top1", "linear_top1_1shot", "linear_top1_10shot"]
    assert [comparison.score_label(name) for name in names] == ["linear", "k-NN", "1-shot", "10-shot"]


def test_markdown_row():
    (line,) = [line for line in markdown([row()]).splitlines() if line.startswith("| test_vit")]
    assert line == (
        "| test_vit | 0.05 | **82.6**<br>random 74.3 (+8.3)<br>pixels 80.1 (+2.5) | "
        "75.0<br>random **76.0** (−1.0)<br>pixels 74.5 (+0.5) | 0.25 | 12 | "
        "[01234567](http://127.0.0.1:5000/#/experiments/7/runs/0123456789abcdef) |"
    )


def test_every_markdown_row_has_the_columns_of_its_head():
    lines = [line for line in markdown([row(), row(num_seeds=2)]).splitlines() if line.startswith("|")]
    assert len(lines) == 4 and len({line.count("|") for line in lines}) == 1
    assert "| λ | n |" in lines[0]


def test_html_row():
    text = page_of([row()])
    assert '<span class="score best">82.6</span>' in text
    assert '<dt>random</dt><dd>74.3<i class="up">+8.3</i></dd>' in text
    assert '<dt>random</dt><dd><b>76.0</b><i class="down">−1.0</i></dd>' in text
    assert '<td data-value="0.05">0.05</td>' in text
    assert 'href="http://127.0.0.1:5000/#/experiments/7/runs/0123456789abcdef"' in text


def test_equal_looks_are_equally_best():
    rows = [row(linear_top1=0.8262), row(linear_top1=0.8258, backbone="b")]
    assert [comparison.entry(rows, r, "linear_top1", STYLE).best for r in rows] == [True, True]


def test_verdict_names_the_winning_baseline():
    said = comparison.verdict([row()], SCORES, STYLE)
    assert said == (
        "A baseline is not beaten here. "
        "k-NN: the best random initialisation beats the best learned backbone, 76.0 against 75.0."
    )
    assert said in markdown([row()]) and said in page_of([row()])


def test_verdict_on_a_tie():
    said = comparison.verdict([row(raw_pixels_linear_top1=0.826)], ["linear_top1"], STYLE)
    assert "linear: the probe on raw pixels equals the best learned backbone, 82.6 against 82.6" in said


def test_verdict_when_learned_features_win():
    rows = [row(knn_top1=0.9)]
    assert comparison.verdict(rows, SCORES, STYLE) == "In every column the best number is a learned one."


def test_number_of_seeds_is_told():
    assert "(n = 1); ± is the standard deviation over the few-shot draws" in markdown([row()])
    several = [row(num_seeds=3, linear_top1_std=0.0042)]
    assert "Means over n training seeds" in markdown(several)
    assert "| 3 | **82.6 ± 0.4**<br>" in markdown(several)
    assert "± 0.4" in page_of(several)


def test_what_was_not_measured_is_a_dash():
    lacking = [row(raw_pixels_linear_top1=None, knn_top1=None, run_ids=[])]
    (line,) = [line for line in markdown(lacking).splitlines() if line.startswith("| test_vit")]
    assert "pixels – |" in line and "| –<br>random **76.0**<br>" in line and line.endswith("| – |")
    Reader(page_of(lacking))


def test_run_without_a_known_experiment_is_plain():
    text = comparison.markdown("t", [row()], [gain()], SCORES, [], Style(1))
    assert "| `01234567` |" in text and "](http" not in text


def test_summary_line():
    said = "digits: learned minus random init, mean over 2 cells: linear +3.2 points (1 of 2 cells gain)"
    assert comparison.summary_line(gain(), STYLE) == said
    assert f"- {said}" in markdown([row()])


def line_of(text):
    (line,) = [line for line in text.splitlines() if line.startswith("| test_vit")]
    return line


def test_a_collapsed_run_is_a_word():
    rows = [collapsed_row(), row(backbone="b")]
    entries = line_of(markdown(rows)).split(" | ")
    assert entries[:3] == ["| test_vit †", "0.05", "collapsed (epoch 3)<br>random 74.3<br>pixels 80.1"]
    assert entries[3].startswith("collapsed (epoch 3)<br>random **76.0**<br>pixels")
    assert "\n† test_vit, λ 0.05, seed 0: collapse at epoch 3\n" in markdown(rows)
    text = page_of(rows)
    assert '<td data-value=""><span class="score">collapsed (epoch 3)</span><dl><dt>random</dt><dd>74.3</dd>' in text
    assert '<p class="note">† test_vit, λ 0.05, seed 0: collapse at epoch 3</p>' in text
    Reader(text)
    for said in (markdown(rows), text):
        assert "A run that collapsed has no learned number and is left out of means, gains and charts." in said


def test_collapsed_seeds_are_counted():
    alarms = {1: {"collapse": 3}, 2: {"collapse": 7}}
    some = row(num_seeds=1, num_collapsed=2, alarms=alarms)
    assert "| 1 | **82.6**<br>2 of 3 collapsed<br>random" in line_of(markdown([some]))
    assert '<span class="score best">82.6</span><br><small>2 of 3 collapsed</small><dl>' in page_of([some])
    every = collapsed_row(num_collapsed=2, alarms=alarms)
    assert "| 0 | collapsed (epochs 3, 7)<br>random" in line_of(markdown([every]))


def test_other_alarms_leave_the_numbers():
    rang = [row(alarms={0: {"explosion": 5, "starvation": 2}})]
    assert "† test_vit, λ 0.05, seed 0: explosion at epoch 5, starvation at epoch 2" in markdown(rang)
    assert "| test_vit † | 0.05 | **82.6**<br>random 74.3 (+8.3)" in line_of(markdown(rang))
    assert "test_<wbr>vit †<small>" in page_of(rang)
    assert "†" not in markdown([row()]) + page_of([row()])


def test_gains_tell_what_was_left_out():
    said = comparison.summary_line(gain(num_collapsed=1), STYLE)
    assert said.startswith("digits: learned minus random init, mean over 2 cells (1 collapsed cell left out): linear")
    nothing = gain(num_cells=0, num_collapsed=3, gains={})
    assert comparison.summary_line(nothing, STYLE) == "digits: 3 collapsed cells left out"
    assert '<p class="note">3 collapsed cells left out</p>' in comparison_html.overview([nothing], STYLE)
    assert "left out" not in comparison_html.overview([gain()], STYLE)


def test_no_verdict_without_a_learned_number():
    assert comparison.verdict([collapsed_row()], SCORES, STYLE) == "There is no learned number to compare."


def test_missing_cells_are_listed():
    lines = ["digits--a--lambda0.1--seed0: no probe/metrics.json; run: dvc repro"]
    assert f"## Missing cells\n\n- {lines[0]}\n" in markdown([row()], lines)
    assert f"<li><code>{lines[0]}</code></li>" in page_of([row()], lines)
    assert "Missing cells" not in markdown([row()]) + page_of([row()])


def test_page_is_self_contained():
    reader = Reader(page_of([row()], charts={"accuracy-digits": "<svg></svg>", "curves-digits": "<svg></svg>"}))
    assert not {"link", "img", "iframe", "object"} & set(reader.tags) and reader.tags.count("svg") == 2
    names = {name for name, _ in reader.attributes}
    assert "src" not in names and "onclick" not in names
    ids = [value for name, value in reader.attributes if name == "id"]
    anchors = [value[1:] for name, value in reader.attributes if name == "href" and value.startswith("#")]
    assert anchors == ids and len(set(ids)) == len(ids) == 2
    assert "url(" not in html.CSS and "@import" not in html.CSS


def test_names_are_escaped():
    evil = '<script>alert("x")</script>|`*'
    text = page_of([row(dataset=evil, backbone=evil, run_ids=[evil])], [evil], title=evil)
    reader = Reader(text)
    assert reader.tags.count("script") == 1 and "alert(&quot;x&quot;)" in text
    written = markdown([row(backbone=evil)], [evil])
    assert "<script>" not in re.sub(r"\\.", "", written)
    (line,) = [line for line in written.splitlines() if "alert" in line and line.startswith("|")]
    assert len(re.findall(r"(?<!\\)\|", line)) == 8


def test_further_sections():
    text = html.page("t", "s", [("Overview", "<p>a</p>"), ("Against the paper", "<p>b</p>"), ("Overview", "<p>c</p>")])
    reader = Reader(text)
    assert reader.tags.count("section") == 3
    assert '<a href="#s1-against-the-paper">Against the paper</a>' in text
