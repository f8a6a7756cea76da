"""Claims about the figures of embedding health:

1. Every data set gets its spectra, its Epps-Pulley statistics and its curves; equal cells give equal bytes, well-formed
   and self-contained.
2. Titles, cells and lambdas are shown as text; the share of slices beyond the null distribution stands beside its bar.
3. Frozen models (no projection, no history, no lambda), collapsed embeddings and numbers that are missing still draw.
"""

from __future__ import annotations

import random
import re
from xml.etree import ElementTree

import pytest

from pipeline.reports.figures_health import charts


def site(dim: int, seed: int) -> dict:
    rng = random.Random(seed)
    raw = [rng.uniform(0.3, 30) for _ in range(16)]
    null = {"null_mean": 1.05, "null_sd": 0.8, "null_q95": 2.8, "share_above": sum(v > 2.8 for v in raw) / 16}
    tests = {"raw": {"values": raw, **null}, "standardised": {"values": [value / 3 for value in raw], **null}}
    return {"dim": dim, "spectrum": [5 * (i + 1) ** -1.2 for i in range(dim)], "epps_pulley": tests}


def trained(dataset: str = "digits", backbone: str = "test_vit", lamb: float = 0.02, epochs: int = 4) -> dict:
    seed = len(dataset + backbone) + int(1000 * lamb)
    names = ["embedding_norm", "embedding_rank", "projection_rank", "projection_epps_pulley"]
    history = [{"epoch": float(e), "loss": 1 / e} | {name: seed + e for name in names} for e in range(1, epochs + 1)]
    health = {"num_images": 99, "embedding": site(32, seed), "projection": site(8, seed + 1), "criteria": {}}
    key = f"{dataset}--{backbone}--lambda{lamb}--seed0"
    return {"cell": key, "dataset": dataset, "backbone": backbone, "lambda": lamb, "health": health, "history": history}


def frozen() -> dict:
    health = {"num_images": 99, "embedding": site(32, 5), "criteria": {}}
    return {**trained(), "cell": "digits--dino", "backbone": "dino", "lambda": None, "health": health, "history": []}


STRANGE = "a$b$<i>&"


def grid() -> list[dict]:
    return [trained(), trained(lamb=0.1), trained(backbone="x"), trained(STRANGE)]


@pytest.fixture(scope="module")
def found() -> dict[str, str]:
    return charts(grid())


def texts(svg: str) -> list[str]:
    return ["".join(node.itertext()) for node in ElementTree.fromstring(svg).iter() if node.tag.endswith("}text")]


def test_names_and_bytes(found):
    wanted = [f"{kind}-{dataset}" for dataset in ("digits", STRANGE) for kind in ("spectra", "epps-pulley", "health")]
    assert list(found) == wanted and charts(grid()) == found
    for svg in found.values():
        assert not re.search(r"\b20\d\d-\d\d-\d\d", svg) and set(re.findall(r'href="(.)', svg)) <= {"#"}
        assert "currentColor" in svg


def test_what_is_written(found):
    assert {"embedding", "projection", "λ = 0.02", "λ = 0.1", "test_vit", "eigenvalue / mean"} <= set(
        texts(found["spectra-digits"])
    )
    shown = texts(found["epps-pulley-digits"])
    assert shown.count("test_vit lambda0.1 seed0") == 1 and "projection against N(0, 1)" in shown
    share = trained(lamb=0.1)["health"]["projection"]["epps_pulley"]["raw"]["share_above"]
    assert f"{100 * share:.0f} %" in shown
    titles = {"embedding, mean norm", "embedding, RankMe", "projection, RankMe", "projection, Epps-Pulley"}
    shown = set(texts(found["health-digits"]))
    assert titles <= shown and "embedding, isotropy" not in shown


def test_frozen_models_and_collapse():
    cells = [frozen(), trained(), trained(lamb=0.1)]
    cells[1]["history"][2]["embedding_rank"] = float("nan")
    del cells[2]["history"][0]["embedding_norm"]
    cells[2]["health"]["projection"] |= {"spectrum": [0.0] * 8}
    cells[2]["health"]["projection"]["epps_pulley"]["raw"] |= {"values": [None] * 16, "share_above": None}
    found = charts(cells)
    assert list(found) == ["spectra-digits", "epps-pulley-digits", "health-digits"]
    assert "dino" in texts(found["epps-pulley-digits"]) and "dino" not in texts(found["health-digits"])
