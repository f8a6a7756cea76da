"""The shell of index.html: one self-contained file, readable in light and dark, on a desk and on a phone."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape

CSS = """
:root{color-scheme:light dark;--font:system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;
--ink:#1b2431;--soft:#5b6675;--line:#dfe4ea;--paper:#fff;--tint:#f5f7fa;--link:#2563c9;
--up:#1a7f4e;--down:#c03a4b;--best:#fff1c9}
@media(prefers-color-scheme:dark){:root{--ink:#dbe2ea;--soft:#95a1b0;--line:#2a323d;--paper:#10151c;--tint:#171e27;
--link:#7fb0ff;--up:#55c88d;--down:#f0808d;--best:#4a3d12}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.55 var(--font)}
main,header,nav ul,footer{max-width:1180px;margin:0 auto;padding:0 clamp(16px,3vw,32px)}
header{padding-top:clamp(28px,5vw,56px);padding-bottom:20px}
h1{font-size:clamp(1.7rem,4vw,2.5rem);line-height:1.15;letter-spacing:-.02em;margin:0 0 .35em;overflow-wrap:anywhere}
h2{font-size:1.4rem;letter-spacing:-.01em;margin:0 0 .5em;overflow-wrap:anywhere}
h3{font-size:1rem;margin:0 0 .6em;overflow-wrap:anywhere}
header p,.note,.verdict,section>p,footer{color:var(--soft);max-width:80ch}
header p{margin:0}
.verdict{color:var(--ink);border-left:3px solid var(--link);padding-left:12px;margin:16px 0 28px}
nav{position:sticky;top:0;z-index:2;background:var(--paper);border-block:1px solid var(--line)}
nav ul{list-style:none;display:flex;gap:4px 22px;overflow-x:auto;white-space:nowrap;font-size:.9rem;
scrollbar-width:none}
nav a{display:block;padding:11px 0;color:var(--soft);text-decoration:none}
nav a:hover,nav a:focus-visible{color:var(--link)}
a{color:var(--link)}
section{padding:36px 0 8px;scroll-margin-top:40px}
section+section{border-top:1px solid var(--line)}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,400px),1fr));gap:16px;margin:18px 0 24px}
.card{background:var(--tint);border:1px solid var(--line);border-radius:12px;padding:18px 20px}
.stats{display:grid;grid-template-columns:repeat(auto-fit,minmax(84px,1fr));gap:14px}
.stat b{display:block;font-size:1.55rem;line-height:1.2;letter-spacing:-.02em;font-variant-numeric:tabular-nums}
.stat span{display:block;font-size:.9rem}
.stat small{color:var(--soft);font-size:.78rem}
.up{color:var(--up)}.down{color:var(--down)}.even{color:var(--soft)}
.scroll{overflow-x:auto;-webkit-overflow-scrolling:touch}
table{border-collapse:collapse;width:100%;font-size:.9rem;font-variant-numeric:tabular-nums}
th,td{padding:10px 9px;text-align:right;vertical-align:top;border-bottom:1px solid var(--line);white-space:nowrap}
th:first-child{text-align:left;padding-left:2px}
td:last-child,thead th:last-child{padding-right:2px}
tbody th{font-weight:600}
tbody th small{display:block;font-weight:400;color:var(--soft);font-size:.78rem}
tbody tr:hover{background:var(--tint)}
thead th{vertical-align:bottom;border-bottom:2px solid var(--line);font-weight:600;color:var(--soft);font-size:.82rem}
thead button{all:unset;cursor:pointer}
thead button:hover{color:var(--link)}
thead button:focus-visible{outline:2px solid var(--link);outline-offset:2px}
thead button::after{content:"↕";opacity:.35;margin-left:4px}
th[aria-sort=ascending] button::after{content:"↑";opacity:1}
th[aria-sort=descending] button::after{content:"↓";opacity:1}
.score{font-size:1.06rem;font-weight:500}
.best{font-weight:700;background:var(--best);border-radius:4px;padding:0 5px;margin-right:-5px}
.best+.std{margin-left:5px}
.std{color:var(--soft);font-size:.8rem}
dl{display:grid;grid-template-columns:1fr auto;gap:0 8px;margin:3px 0 0;
font-size:.78rem;line-height:1.45;color:var(--soft)}
dt{text-align:left}dd{margin:0}
dd b{color:var(--ink);background:var(--best);border-radius:3px;padding:0 3px}
dd i{font-style:normal;display:inline-block;min-width:3.1em;margin-left:.4em}
figure{margin:0 0 32px}
figure .chart{display:block;background:none;max-width:100%;height:auto}
figure img{display:block;max-width:100%;height:auto}
summary{cursor:pointer;padding:8px 0}
figcaption{color:var(--soft);font-size:.88rem;margin-top:8px;max-width:90ch}
code{font:.86em ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace}
li code{overflow-wrap:anywhere}
footer{padding-top:8px;padding-bottom:48px;font-size:.85rem}
@media(max-width:760px){figure .chart{max-width:none;width:720px}tbody th,thead th:first-child{position:sticky;left:0;
background:var(--paper)}th,td{padding:9px 9px}tbody th{white-space:normal;max-width:38vw;font-size:.84rem;
overflow-wrap:break-word}
.stats{grid-template-columns:repeat(2,1fr)}}
@media print{nav{display:none}section{break-inside:avoid}}
"""

# Sorts a table by the column of the button that was pressed: numbers as numbers, absent values last.
SCRIPT = """
document.querySelectorAll("thead button").forEach(button=>button.addEventListener("click",()=>{
 const head=button.closest("th"),body=head.closest("table").tBodies[0],column=head.cellIndex;
 const down=head.getAttribute("aria-sort")!=="descending"&&column>0||head.getAttribute("aria-sort")==="ascending";
 head.parentNode.querySelectorAll("th").forEach(other=>other.removeAttribute("aria-sort"));
 head.setAttribute("aria-sort",down?"descending":"ascending");
 const value=row=>row.cells[column].dataset.value;
 const compare=(a,b)=>a===""?1:b===""?-1:(isNaN(a)||isNaN(b)?a.localeCompare(b):a-b)*(down?-1:1);
 [...body.rows].sort((a,b)=>compare(value(a),value(b))).forEach(row=>body.append(row));
}));
"""


def page(title: str, subtitle: str, sections: Sequence[tuple[str, str]], footer: str = "") -> str:
    """Put sections into one HTML document without scripts, styles, fonts or images from elsewhere.

    Args:
        title: heading, plain text.
        subtitle: line under it, plain text.
        sections: (heading as plain text, body as HTML) in order; the headings become the navigation.
        footer: closing line, plain text.
    """
    anchors = _anchors([heading for heading, _ in sections])
    links = "".join(
        f'<li><a href="#{anchor}">{escape(heading)}</a></li>'
        for anchor, (heading, _) in zip(anchors, sections, strict=True)
    )
    bodies = "".join(
        f'<section id="{anchor}"><h2>{escape(heading)}</h2>{body}</section>\n'
        for anchor, (heading, body) in zip(anchors, sections, strict=True)
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(title)}</title><style>{CSS}</style></head>\n"
        f"<body><header><h1>{escape(title)}</h1><p>{escape(subtitle)}</p></header>\n"
        f'<nav aria-label="Sections"><ul>{links}</ul></nav>\n'
        f"<main>\n{bodies}</main>\n<footer>{escape(footer)}</footer>\n<script>{SCRIPT}</script></body></html>\n"
    )


def _anchors(headings: Sequence[str]) -> list[str]:
    """Make an id of each heading; the position keeps them distinct."""
    return [f"s{i}-" + re.sub(r"[^a-z0-9]+", "-", heading.lower()).strip("-") for i, heading in enumerate(headings)]
