"""Tables as stages wrote them."""

from __future__ import annotations

import csv
from pathlib import Path


def csv_rows(path: Path | str) -> list[dict[str, str]]:
    """Read a table of one line a row."""
    return list(csv.DictReader(Path(path).read_text(encoding="utf-8").splitlines()))
