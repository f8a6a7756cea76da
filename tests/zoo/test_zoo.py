"""Claims about the zoo by rule and its conformance run:

1. Families go by name: every model legible in figure 9 of the paper is in one of the eight.
2. A rule is expanded in a fixed order, to the architectures within the bound.
3. A row says what works at each size, why not, and which size near by does.
4. An architecture that crashes or hangs costs itself alone.
5. The stage goes on where it stopped, and repeats rows of another timm version or size.
"""

from __future__ import annotations

import os
import time

import pytest

from pipeline.models.backbones import count_params, known_backbones
from pipeline.runtime.errors import UserError
from pipeline.zoo import families
from pipeline.zoo.conformance import WORKS, conformance, isolated, read_rows, untried, write_rows
from pipeline.zoo.families import FAMILIES, expand, family_of
from stages import zoo as stage

pytestmark = pytest.mark.seconds

FIGURE_9 = [
    "resnet14t", "resnet18d", "resnet26", "resnet26d", "resnet26t", "resnet32ts", "resnet33ts", "resnext26ts",
    "resnetblur18", "convnext_zepto_rms", "convnext_zepto_rms_ols", "convnext_atto_ols", "convnext_atto_rms",
    "convnext_femto", "convnext_pico_ols", "convnext_nano", "convnext_nano_ols", "convnextv2_femto",
    "efficientnet_b0_gn", "efficientnet_b0_g8_gn", "inception_next_atto", "levit_128", "levit_128s", "levit_192",
    "levit_conv_256", "maxvit_pico_rw_256", "maxvit_nano_rw_256", "maxvit_rmlp_pico_rw_256",
    "maxvit_rmlp_nano_rw_256", "vit_pe_core_tiny_patch16_384",
]  # fmt: skip


# 1. Families


def test_models_of_figure_9_are_of_its_families_and_within_its_bound():
    known = set(known_backbones())
    for name in FIGURE_9:
        assert name in known and name.startswith((family_of(name) or "nothing", "resnext")), name
    for name in ("resnet33ts", "convnext_nano_ols", "maxvit_rmlp_nano_rw_256", "levit_conv_256"):  # the largest
        assert 1e7 < count_params(name) <= 20e6


# 2. Expansion


SIZES = {
    "levit_128s": 7e6,
    "levit_128": 9e6,
    "resnet18": 11e6,
    "vit_tiny_patch16_224": 6e6,
    "vit_small_patch8_224": 22e6,
}


def test_a_rule_is_expanded_in_order_and_within_the_bound(monkeypatch):
    monkeypatch.setattr(families, "known_backbones", lambda: ["test_vit", "seresnet18", *SIZES])
    monkeypatch.setattr(families, "count_params", lambda name: int(SIZES[name]))
    entries = [("levit_128", "levit", 9e6), ("levit_128s", "levit", 7e6), ("vit_tiny_patch16_224", "vit", 6e6)]
    assert expand(["vit", "levit"], 20e6) == expand(["levit", "vit"], 9e6) == entries
    assert expand(["vit", "levit"], 9e6 - 1) == entries[1:]
    assert len(expand(list(FAMILIES), 30e6)) == len(SIZES)
    with pytest.raises(UserError, match=r"max_params must be >= 7000000 \(levit_128s, the smallest of .*, got 1000"):
        expand(["levit", "resnet"], 1000)


# 3. Rows


@pytest.mark.parametrize(
    ("name", "sizes", "at_global", "at_local", "nearest_px"),
    [
        ("test_vit", (128, 98), WORKS, "divisible by patch size", 96),
        ("levit_128s", (128, 98), WORKS, "must match", 0),
        ("test_vit", (98, 32), "divisible by patch size", "", 0),
        ("test_resnet", (64, 0), WORKS, "", 0),
    ],
)
def test_a_row_says_why_not_and_what_would_work(name, sizes, at_global, at_local, nearest_px):
    row = conformance(name, *sizes)
    assert at_global in row.at_global and at_local in row.at_local
    assert bool(row.at_local) == bool(at_local) and row.nearest_px == nearest_px


# 4. Isolation


@pytest.mark.slow
def test_a_crash_and_a_hang_stay_in_their_process():
    assert isolated(len, "answer", limit_s=120) == 6
    with pytest.raises(UserError, match="died with exit status 3"):
        isolated(os._exit, 3, limit_s=120)
    with pytest.raises(UserError, match=r"no answer within 0\.5 s"):
        isolated(time.sleep, 600, limit_s=0.5)
    assert isolated(len, "answer", limit_s=120) == 6


# 5. The stage


def test_the_stage_goes_on_where_it_stopped(tmp_path, monkeypatch):
    tried = []

    def check(function, name, *sizes, limit_s):
        tried.append(name)
        if name == "c":
            raise UserError("no answer within 1 s")
        return untried(name, *sizes, WORKS)._replace(at_local=WORKS)

    monkeypatch.setattr(stage.conformance, "isolated", check)
    done = [
        untried("a", 64, 32, "fails"),
        untried("b", 64, 16, WORKS),
        untried("d", 64, 32, WORKS)._replace(timm="0.1"),
    ]
    write_rows(tmp_path / "zoo.csv", done)
    (tmp_path / "names.txt").write_text("a  # first\nb\nc\nd\n")
    arguments = [str(tmp_path / "names.txt"), "--global-px", "64", "--local-px", "32", "--reports", str(tmp_path)]
    assert stage.main(*arguments) == 0
    assert tried == ["b", "c", "d"]
    rows = read_rows(tmp_path / "zoo.csv")
    assert [rows[name].at_global for name in "abcd"] == ["fails", WORKS, "no answer within 1 s", WORKS]
    assert "| other | 4 | 2 | 2 |" in " ".join((tmp_path / "zoo.md").read_text().split())
    assert stage.main(*arguments) == 0 and tried == ["b", "c", "d"]
