"""What the paper claims, beside what was measured here: one CSV with the same columns for every table and figure."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import dropwhile, takewhile
from pathlib import Path
from statistics import mean, stdev
from typing import Any, Literal, get_args

from pipeline.errors import UserError
from pipeline.files import write_text

Verdict = Literal["reproduced", "differs", "not run"]


@dataclass(frozen=True)
class Claim:
    """One claim of the paper and the answer to it, numbers as the paper prints them (accuracies in percent).

    Args:
        claim: what is said of what, in a few words.
        published: the paper's number or words.
        ours: the measured number; empty where nothing was run.
        std: standard deviation over `seeds`, in the unit of `ours`; empty with fewer than two seeds.
        seeds: how many seeds `ours` is the mean of, >= 0.
        verdict: reproduced, differs or not run.

    Raises:
        ValueError: another verdict, or seeds that do not fit it.
    """

    claim: str
    published: str
    ours: str
    std: str
    seeds: int
    verdict: Verdict

    def __post_init__(self) -> None:
        """Refuse what a table could not say."""
        if self.verdict not in get_args(Verdict):
            raise ValueError(f"verdict must be one of {', '.join(get_args(Verdict))}, got {self.verdict!r}")
        if (self.seeds == 0) != (self.verdict == "not run") or self.seeds < 0:
            raise ValueError(f"seeds must be 0 for 'not run' and > 0 otherwise, got {self.seeds} for {self.verdict!r}")


COLUMNS = tuple(field.name for field in fields(Claim))


def write_claims(path: Path, claims: Iterable[Claim]) -> None:
    """Write claims as CSV with the columns claim, published, ours, std, seeds, verdict."""
    write_text(path, csv_text(COLUMNS, (asdict(claim) for claim in claims)))


def read_claims(path: Path) -> list[Claim]:
    """Read what `write_claims` wrote.

    Raises:
        UserError: the file is absent, has other columns, or a row that is no claim; the message names it.
    """
    rows = read_rows(path, COLUMNS)
    try:
        return [Claim(**{**row, "seeds": int(row["seeds"])}) for row in rows]
    except ValueError as error:
        raise UserError(f"{path}: {error}; run its pipeline again (paper/{path.stem}/dvc.yaml)") from None


def claims_table(claims: Sequence[Claim]) -> str:
    """Write claims as a Markdown table, our numbers as mean ± standard deviation."""
    head = ("claim", "paper", "ours", "seeds", "verdict")
    return markdown_table(
        head, [(c.claim, c.published, f"{c.ours} ± {c.std}" if c.std else c.ours, c.seeds, c.verdict) for c in claims]
    )


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Write a Markdown table; empty cells show a dash, and a `|` in a cell is shown as it is."""
    lines = [head, ["--"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(_cell(value) for value in line)} |" for line in lines) + "\n"


def origin_line(told: Mapping[str, Any]) -> str:
    """Say when, where and how fast measurements were made, from their `descent.origin`."""
    hardware = told["hardware"]
    return (
        f"Measured on {told['date']} in {told['seconds']:.0f} s on {hardware['num_cpus']} cores of {hardware['cpu']}, "
        f"commit {told['commit']}."
    )


def mean_and_std(values: Sequence[float]) -> tuple[float, float | None]:
    """Return mean and standard deviation (n - 1; None for a single value)."""
    return mean(values), stdev(values) if len(values) > 1 else None


def rounded(row: Mapping[str, Any], digits: int = 6) -> dict[str, Any]:
    """Round the floats of a row to significant digits, so that a CSV shows what can be compared."""
    return {key: float(f"{value:.{digits}g}") if isinstance(value, float) else value for key, value in row.items()}


def _cell(value: Any) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ") if value not in ("", None) else "–"


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
