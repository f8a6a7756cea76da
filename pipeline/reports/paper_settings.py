"""Settings of a pipeline with where they come from, as the comments of its parameter file say.

A comment holds for the values of its line; for those below, where it stands at a key, or alone in the lines above; and
for the keys beside, where it ends in "and so the next lines".
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import yaml
from yaml import MappingNode, Node

from pipeline.reports.render import bullets, join, literal
from pipeline.settings.params import bases

SECTIONS = ("grid", "pretrain", "probe", "overrides")
INHERITED = SECTIONS[1:]
GUESSED = re.compile(r"not stated|chosen")
ASIDE = re.compile(r"never changes|where there is one|read whole|^not in th")  # of the machine, or beside the paper
RUN_ON = "and so the next lines"
SPELLED_OUT = "overrides {axes:"  # a value of an axis in other words
NO_SOURCE = "no source is given"


class Told(NamedTuple):
    """A setting: its key and value as in the file, the comment that holds for it, and the pipeline of its file."""

    key: str
    value: str
    comment: str
    pipeline: str


def told_settings(path: Path) -> list[Told]:
    """Return the settings of cells, those of a `based_on` that the file leaves as they are among them."""
    found: dict[str, Told] = {}
    for one in [path, *bases(path)]:
        replaced = any(key.startswith("overrides") for key in found)
        sections = SECTIONS if one == path else INHERITED[: -1 if replaced else None]
        found = {told.key: told for told in _told(one, sections)} | found
    return sorted(found.values(), key=lambda told: SECTIONS.index(re.match(r"\w+", told.key)[0]))


def _told(path: Path, sections: Iterable[str]) -> Iterator[Told]:
    text = path.read_text(encoding="utf-8")
    root = yaml.compose(text, yaml.SafeLoader)
    comments = _comments(text)
    for key, node in root.value if isinstance(root, MappingNode) else ():
        if key.value in sections:
            leaves = _leaves(node, [key.value], comments.get(key.start_mark.line, ""), (text, comments))
            yield from (Told(*leaf, path.parent.name) for leaf in leaves)


def _comments(text: str) -> dict[int, str]:
    """Return the comment of each line that has one, behind it or in the lines right above it."""
    found, above = {}, ""
    for number, line in enumerate(text.splitlines()):
        code, _, comment = line.partition("#")
        if line.strip() and not code.strip():
            above = f"{above} {comment.strip()}".strip()
            continue
        if comment.strip() or above:
            found[number] = comment.strip() or above
        above = ""
    return found


def _leaves(
    node: Node, path: list[str], above: str, source: tuple[str, dict[int, str]]
) -> Iterator[tuple[str, str, str]]:
    text, comments = source
    if not isinstance(node, MappingNode):
        if path == ["overrides"]:
            for one in node.value:
                when = next(value for key, value in one.value if key.value == "when")
                told = text[when.start_mark.index : when.end_mark.index]
                yield from _leaves(one, [f"overrides {told}"], comments.get(one.start_mark.line, above), source)
        elif above or not path[0].startswith(SPELLED_OUT):
            yield (".".join(path), text[node.start_mark.index : node.end_mark.index].strip(), above)
        return
    for key, value in node.value:
        if key.value in ("when", "sets", "only_published"):  # where, and what is set, not to what
            continue
        own = comments.get(key.start_mark.line) or above
        above = own if RUN_ON in own else above
        yield from _leaves(value, path if key.value == "values" else [*path, key.value], own, source)


def settings_text(settings: Iterable[Told], pipeline: str) -> str:
    """Write which settings of a pipeline are stated and which guessed, a line a comment; "" without settings.

    What is stated of a `based_on` is left to its own part of the page.
    """
    stated: dict[str, list[str]] = {}
    guessed: dict[str, list[str]] = {}
    elsewhere: dict[str, None] = {}
    for told in settings:
        kind = guessed if GUESSED.search(told.comment) or not told.comment else stated
        if ASIDE.search(told.comment):
            continue
        if kind is stated and told.pipeline != pipeline:
            elsewhere[told.pipeline] = None
            continue
        kind.setdefault(told.comment or NO_SOURCE, []).append(f"`{told.key}: {told.value}`")
    beside = [f"all else that is stated: as in {' and '.join(elsewhere)}"] if elsewhere else []
    parts = []
    for heading, lines in (("stated", _lines(stated) + beside), ("guesses", _lines(guessed))):
        parts += [f"### Settings that are {heading}", bullets(lines)] if lines else []
    return join(*parts) if parts else ""


def _lines(groups: dict[str, list[str]]) -> list[str]:
    return [f"{literal(comment)}: {', '.join(values)}" for comment, values in groups.items()]
