"""Claims about index.html in a headless Chromium:

1. A filter leaves the rows, sections and pictures of one data set or backbone, and what names none of them.
2. Nothing is wider than the screen, on a desk and on a phone.
3. The link gives comparison.csv.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import pytest

from pipeline.reports.render import Section, fold, markdown_table, page, to_html

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
WAIT_MS = 240_000
BACKBONES = ["vit", "vit-b", "net.a"]
SHOWN = "all => all.filter(one => one.offsetParent).map(one => one.textContent.trim())"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium"),
]


def section(dataset: str) -> Section:
    table = pd.DataFrame({"backbone": BACKBONES, **{f"a long heading {place}": ["1" * 12] * 3 for place in range(12)}})
    picture = fold(f"{dataset} by vit-b", to_html("seen"))
    below = f"### {dataset}: vit\n\n- of vit\n- of all\n"
    return Section(dataset, to_html(markdown_table(table)) + picture + to_html(below))


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    from playwright.sync_api import sync_playwright

    path = tmp_path_factory.mktemp("reports") / "index.html"
    filters = {"data set": ["digits", "digits-2"], "backbone": BACKBONES}
    sections = [section("digits"), section("digits-2"), Section("Others", to_html("none of them"))]
    text = page("t", sections, filters=filters, downloads={"comparison.csv": "x,y\n1,2\n"}, footer="end")
    path.write_text(text, encoding="utf-8")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        shown = browser.new_page()
        shown.set_default_timeout(WAIT_MS)
        shown.goto(path.as_uri())
        yield shown


@pytest.mark.parametrize("width", [1400, 390])
def test_nothing_is_wider_than_the_screen(opened, width):
    opened.set_viewport_size({"width": width, "height": 900})
    assert opened.evaluate("document.documentElement.scrollWidth") == width


def test_filters(opened):
    def shown(what):
        return opened.eval_on_selector_all(what, SHOWN)

    opened.select_option("select[aria-label*='data set']", "digits")
    assert shown("h2") == shown("nav li") == ["digits", "Others"]
    opened.select_option("select[aria-label*=backbone]", "vit")
    assert shown("td:first-child") == ["vit"] and shown("li") == ["digits", "Others", "of vit", "of all"]
    assert shown("summary") == []
    opened.select_option("select[aria-label*=backbone]", "net.a")
    assert shown("td:first-child") == ["net.a"] and shown("h4") == []
    for which in ("'data set'", "backbone"):
        opened.select_option(f"select[aria-label*={which}]", "")
    assert shown("td:first-child") == BACKBONES * 2


def test_download(opened):
    with opened.expect_download() as download:
        opened.click("nav a[download]")
    assert download.value.suggested_filename == "comparison.csv"
    assert Path(download.value.path()).read_text(encoding="utf-8") == "x,y\n1,2\n"
