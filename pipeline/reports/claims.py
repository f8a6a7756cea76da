"""The paper's claims beside our measurements: one CSV format for every table and figure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

import pandas as pd

from pipeline.core.csv_files import read_rows
from pipeline.reports import render
from pipeline.reports.render import literal
from pipeline.runtime.errors import UserError
from pipeline.runtime.files import write_text

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
    write_text(path, render.csv_text(pd.DataFrame(map(asdict, claims), columns=COLUMNS)))


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
    rows = [
        {
            "claim": literal(claim.claim),
            "paper": literal(claim.published),
            "ours": literal(f"{claim.ours} ± {claim.std}" if claim.std else claim.ours),
            "seeds": claim.seeds,
            "verdict": claim.verdict,
        }
        for claim in claims
    ]
    return render.markdown_table(pd.DataFrame(rows, columns=["claim", "paper", "ours", "seeds", "verdict"]))


def claim_line(claim: str) -> str:
    """Write the claim of a parameter file as a paragraph; "" if there is none."""
    return f"Under test: {claim}{'' if claim.endswith(('.', '?', '!')) else '.'}" if claim else ""


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Write a Markdown table of rows; `render.markdown_table` takes a DataFrame."""
    return render.markdown_table(pd.DataFrame(list(rows), columns=list(head), dtype=object))


def origin_line(told: Mapping[str, Any]) -> str:
    """Say when, where and how fast measurements were made, from their `descent.origin`."""
    hardware = told["hardware"]
    return (
        f"Measured on {told['date']} in {told['seconds']:.0f} s on {hardware['num_cpus']} cores of {hardware['cpu']}, "
        f"commit {told['commit']}."
    )
