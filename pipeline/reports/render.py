"""One renderer: a table is a DataFrame, a report is Markdown, and index.html is made of reports.

    csv_text(frame)                   floats with six significant digits, equal bytes for equal frames
    markdown_table(frame)             its cells are Markdown: `literal` escapes what came from outside
    percent(0.8264), points(0.0415)   numbers as readers see them: 82.6, +4.2
    figure(caption, file)             a picture in a report
    to_html(markdown, folder)         pictures are looked up in `folder`
    page(title, sections, ...)        one document from page.html.jinja

The template holds all markup, style and script of the page; none is written in Python.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import jinja2
import pandas as pd
from markdown_it import MarkdownIt
from markdown_it.token import Token
from markupsafe import Markup
from PIL import Image

ABSENT = "–"
# A cell that starts so is a number, bold or not, signed or not; or stands where a run has none.
_NUMERIC = re.compile(r"(\*\*)?[+−±-]?\d|–|$|collapsed \(epoch")


def csv_text(frame: pd.DataFrame, digits: int = 6) -> str:
    """Write a table as CSV; six significant digits resolve one image in a million."""
    return frame.to_csv(index=False, float_format=f"%.{digits}g", lineterminator="\n")


def markdown_table(frame: pd.DataFrame) -> str:
    """Write a table as Markdown: absent values as a dash, columns of numbers to the right.

    Cells are Markdown, in which a bare `|` and line breaks are taken care of; text from outside goes through `literal`.
    """
    text = frame.map(_cell)
    heads = [_cell(name) for name in frame.columns]
    columns = [text.iloc[:, place] for place in range(len(heads))]
    right = [place > 0 and all(_NUMERIC.match(cell) for cell in column) for place, column in enumerate(columns)]
    head, _, *body = text.to_markdown(index=False, headers=heads, disable_numparse=True, stralign=None).splitlines()
    rule = "|".join("--:" if numeric else ":--" for numeric in right)
    return "\n".join([head, f"|{rule}|", *body]) + "\n"


def _cell(value: Any) -> str:
    if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
        return ABSENT
    return re.sub(r"(?<!\\)\|", r"\|", str(value).replace("\n", " "))


def literal(text: str) -> str:
    """Escape what Markdown would read as markup; an underscore inside a word is none."""
    return re.sub(r"[\\`*|<\[\]&]|(?<!\w)_|_(?!\w)", r"\\\g<0>", text)


def bullets(lines: Sequence[str]) -> str:
    """Write a Markdown list."""
    return "\n".join(f"- {line}" for line in lines)


def join(*parts: str) -> str:
    """Put paragraphs, tables and lists below each other; empty ones are left out."""
    return "\n\n".join(part.strip("\n") for part in parts if part) + "\n"


def percent(fraction: float | None, decimals: int = 1) -> str:
    """Write a fraction as a percentage without its sign."""
    return ABSENT if fraction is None or math.isnan(fraction) else f"{100 * fraction:.{decimals}f}"


def points(fraction: float | None, decimals: int = 1) -> str:
    """Write a difference of fractions in percentage points, always signed; what rounds to zero is ±0."""
    return ABSENT if fraction is None or math.isnan(fraction) else signed(100 * fraction, decimals, zero="±")


def signed(value: float, decimals: int = 2, zero: str = "") -> str:
    """Write a number with its sign; before what rounds to zero stands `zero`."""
    text = f"{value:+.{decimals}f}"
    return text.replace("-", "−") if float(text) else f"{zero}{0:.{decimals}f}"


@dataclass(frozen=True)
class Section:
    """A section of the page: its heading as plain text, and HTML."""

    heading: str
    body: str


def figure(caption: str, file: str) -> str:
    """Write a paragraph that shows a picture."""
    return f"![{literal(caption)}](<{file}>)"


def to_html(markdown: str, folder: Path = Path(), root: Path | None = None) -> str:
    """Render Markdown: no raw HTML but line breaks, its headings one level down, wide tables in boxes that scroll.

    Args:
        markdown: text; a paragraph that is one picture, `![caption](file)`, becomes a figure with that caption.
        folder: where its pictures lie. SVG is put into the page, anything else is linked with its size.
        root: folder of the page, which links are relative to; `folder` if not given.

    Raises:
        OSError: a picture is not there, or is none.
    """
    parser = _parser()
    tokens = parser.parse(markdown)
    for place, token in enumerate(tokens):
        if token.type in ("heading_open", "heading_close"):
            token.tag = f"h{int(token.tag[1]) + 1}"
        if token.type == "inline" and [child.type for child in token.children] == ["image"]:
            tokens[place - 1].hidden = tokens[place + 1].hidden = True
            token.children = [_figure(token.children[0], folder, root or folder)]
    return parser.renderer.render(tokens, parser.options, {}).replace("&lt;br&gt;", "<br>")


def _figure(image: Token, folder: Path, root: Path) -> Token:
    path, caption = folder / unquote(image.attrs["src"]), image.content.replace("\\", "")
    if path.suffix == ".svg":
        made = _macros().chart(Markup(path.read_text(encoding="utf-8")), caption)
    else:
        with Image.open(path) as picture:
            width, height = picture.size
        made = _macros().picture(Path(os.path.relpath(path, root)).as_posix(), width, height, caption)
    return Token("html_inline", "", 0, content=str(made))


def fold(summary: str, body: str, *, is_open: bool = False) -> str:
    """Put HTML behind a line of text that opens it."""
    return str(_macros().fold(summary, Markup(body), is_open))


def page(
    title: str,
    sections: Sequence[Section],
    *,
    filters: Mapping[str, Sequence[str]],
    downloads: Mapping[str, str],
    footer: str,
) -> str:
    """Put sections into one document without scripts, styles, fonts or tables from elsewhere.

    Args:
        title: heading, plain text.
        sections: in order; their headings become the navigation.
        filters: by what they choose, the values of which one can be shown alone; a single value makes no filter.
        downloads: text of CSV files by name, which the page itself holds.
        footer: closing line, plain text.
    """
    places = [(f"s{i}-" + re.sub(r"[^a-z0-9]+", "-", s.heading.lower()).strip("-"), s) for i, s in enumerate(sections)]
    entries = [{"id": place, "heading": found.heading, "body": Markup(found.body)} for place, found in places]
    return _template().render(title=title, sections=entries, filters=filters, downloads=downloads, footer=footer) + "\n"


@cache
def _parser() -> MarkdownIt:
    return MarkdownIt("commonmark", {"html": False}).enable("table")


@cache
def _template() -> jinja2.Template:
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    return jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined).get_template(
        "page.html.jinja"
    )


@cache
def _macros() -> Any:
    return _template().make_module({"title": "", "sections": [], "filters": {}, "downloads": {}, "footer": ""})
