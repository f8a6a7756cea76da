"""CSV files of results: written in one way, read back as text."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from itertools import dropwhile, takewhile
from pathlib import Path
from typing import Any

from pipeline.runtime.errors import UserError


def rounded(row: Mapping[str, Any], digits: int = 6) -> dict[str, Any]:
    """Round the floats of a row to significant digits, so that a CSV shows what can be compared."""
    return {key: float(f"{value:.{digits}g}") if isinstance(value, float) else value for key, value in row.items()}


def csv_text(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    """Write rows as CSV text; a column that a row lacks is an error, and so is one too many."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, columns, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        if set(row) != set(columns):
            raise ValueError(f"a row must have exactly the columns {', '.join(columns)}, got {', '.join(row)}")
        writer.writerow(row)
    return buffer.getvalue()


def read_comments(path: Path) -> tuple[str, ...]:
    """Return the lines in front of a CSV file's columns that begin with #, without it."""
    with path.open(encoding="utf-8") as file:
        return tuple(line[1:].strip() for line in takewhile(lambda line: line.startswith("#"), file))


def read_rows(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """Read a CSV file that must have exactly these columns; lines in front of them that begin with # are comments.

    Raises:
        UserError: the file is absent, or has other columns or a short row.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(dropwhile(lambda line: line.startswith("#"), file), restval=None)
            rows, found = list(reader), tuple(reader.fieldnames or ())
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; run the pipeline that writes it") from None
    if found != tuple(columns):
        raise UserError(f"{path} must have the columns {', '.join(columns)}, got {', '.join(found) or 'none'}")
    if any(None in row or None in row.values() for row in rows):
        raise UserError(f"{path}: a row has more or fewer than {len(columns)} cells; run its pipeline again")
    return rows
