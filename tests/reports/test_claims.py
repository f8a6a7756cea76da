"""Claims of pipeline.reports.claims:

1. Claims read back as they were written, commas, quotes and Greek letters included.
2. A claim that contradicts itself, a row of other columns, and a file that is no list of claims are refused by name.
"""

from __future__ import annotations

import pytest

from pipeline.reports.claims import Claim, read_claims, write_claims
from pipeline.runtime.errors import UserError

CLAIMS = [
    Claim('accuracy of "ViT-L", λ 0.05', "74.57", "60.10", "0.42", 3, "differs"),
    Claim("not reached", "> 1", "", "", 0, "not run"),
]


def test_claims_read_back(tmp_path):
    path = tmp_path / "claims" / "table5.csv"
    write_claims(path, CLAIMS)
    assert path.read_text(encoding="utf-8").splitlines()[0] == "claim,published,ours,std,seeds,verdict"
    assert read_claims(path) == CLAIMS


@pytest.mark.parametrize(("seeds", "verdict"), [(3, "fine"), (0, "reproduced"), (2, "not run"), (-1, "differs")])
def test_a_claim_must_make_sense(seeds, verdict):
    with pytest.raises(ValueError, match=r"(verdict|seeds) must be"):
        Claim("x", "1", "1", "", seeds, verdict)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("claim,ours\nx,1\n", "must have the columns claim, published"),
        ("claim,published,ours,std,seeds,verdict\nx,1\n", "more or fewer than 6 cells"),
        ("claim,published,ours,std,seeds,verdict\nx,1,1,,three,differs\n", "three"),
        ("claim,published,ours,std,seeds,verdict\nx,1,1,,3,maybe\n", "verdict must be one of"),
    ],
)
def test_broken_files_are_named(tmp_path, text, told):
    path = tmp_path / "table5.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=told) as error:
        read_claims(path)
    assert str(path) in str(error.value)
