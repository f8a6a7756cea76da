"""Claims about the zoo by rule and its conformance run:

1. Families go by name: every model legible in figure 9 of the paper is in one of the eight; mere look-alikes are not.
2. A rule is expanded in a fixed order, to the architectures within the bound, with their true numbers of parameters.
3. A family that is unknown, or a bound below every member, is an error that names what would be right.
4. The list of names is read back as it was written.
5. A row says what works at each size, why not, and which size near by does.
6. An architecture that crashes or hangs costs itself alone.
7. The stage goes on where it stopped, and repeats rows of another timm version or size.
"""

from __future__ import annotations

import os
import time

import pytest

from pipeline.models.backbones import TIMM_VERSION, count_params, create_backbone, known_backbones
from pipeline.runtime.errors import UserError
from pipeline.settings.params import read_backbones
from pipeline.zoo import families
from pipeline.zoo.conformance import WORKS, conformance, isolated, read_rows, report_text, untried, write_rows
from pipeline.zoo.families import FAMILIES, ZooEntry, expand, family_of, write_list
from stages import zoo as stage

FIGURE_9 = [
    "resnet14t",
    "resnet18d",
    "resnet26",
    "resnet26d",
    "resnet26t",
    "resnet32ts",
    "resnet33ts",
    "resnext26ts",
    "resnetblur18",
    "convnext_zepto_rms",
    "convnext_zepto_rms_ols",
    "convnext_atto_ols",
    "convnext_atto_rms",
    "convnext_femto",
    "convnext_pico_ols",
    "convnext_nano",
    "convnext_nano_ols",
    "convnextv2_femto",
    "efficientnet_b0_gn",
    "efficientnet_b0_g8_gn",
    "inception_next_atto",
    "levit_128",
    "levit_128s",
    "levit_192",
    "levit_conv_256",
    "maxvit_pico_rw_256",
    "maxvit_nano_rw_256",
    "maxvit_rmlp_pico_rw_256",
    "maxvit_rmlp_nano_rw_256",
    "vit_pe_core_tiny_patch16_384",
]


# 1. Families


@pytest.mark.parametrize("name", FIGURE_9)
def test_models_of_figure_9_are_of_its_families(name):
    assert name in known_backbones() and family_of(name) in FAMILIES
    assert name.startswith((family_of(name), "resnext"))


@pytest.mark.parametrize("name", ["resnet33ts", "convnext_nano_ols", "maxvit_rmlp_nano_rw_256", "levit_conv_256"])
def test_the_largest_of_figure_9_are_within_its_bound(name):
    assert 1e7 < count_params(name) <= 20e6


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("resnext26ts", "resnet"),
        ("resnetv2_18", "resnet"),
        ("convnextv2_atto", "convnext"),
        ("maxxvitv2_nano_rw_256", "maxxvit"),
        ("levit_conv_128s", "levit"),
        ("seresnet18", ""),
        ("tf_efficientnet_b0", ""),
        ("efficientvit_b0", ""),
        ("mobilevit_s", ""),
        ("vitamin_small_224", ""),
        ("test_vit", ""),
    ],
)
def test_families_go_by_name(name, family):
    assert name in known_backbones() and family_of(name) == family


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


def test_the_number_of_parameters_is_the_true_one():
    found = expand(["maxxvit"], 20e6)
    assert [entry.family for entry in found] == ["maxxvit"] * len(found)
    wanted = sum(parameter.numel() for parameter in create_backbone(found[0].name, {}).parameters())
    assert found[0].num_params == wanted


# 3. Rules that cannot be


def test_unknown_family():
    with pytest.raises(UserError, match=r"unknown family 'resnets' in grid.backbones.families; did you mean 'resnet'"):
        expand(["vit", "resnets"], 20e6)


def test_bound_below_every_member(monkeypatch):
    monkeypatch.setattr(families, "known_backbones", lambda: list(SIZES))
    monkeypatch.setattr(families, "count_params", lambda name: int(SIZES[name]))
    with pytest.raises(UserError, match=r"max_params must be >= 7000000 \(levit_128s, the smallest of .*, got 1000"):
        expand(["levit", "resnet"], 1000)


# 4. The list


def test_the_list_is_read_back(tmp_path):
    entries = [ZooEntry("levit_128s", "levit", 7_000_000), ZooEntry("resnet18", "resnet", 11_176_512)]
    write_list(tmp_path / "backbones.txt", entries)
    assert read_backbones(tmp_path / "backbones.txt") == ["levit_128s", "resnet18"]
    text = (tmp_path / "backbones.txt").read_text()
    assert "# resnet, 11,176,512" in text and f"timm {TIMM_VERSION}" in text.splitlines()[0]


# 5. Rows


def test_a_row_of_what_works():
    row = conformance("test_vit", 64, 32)
    num_params = sum(parameter.numel() for parameter in create_backbone("test_vit", {"img_size": 64}).parameters())
    assert row == untried("test_vit", 64, 32)._replace(
        num_params=num_params, embed_dim=64, at_global=WORKS, at_local=WORKS
    )


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


def test_rows_are_read_back_and_reported(tmp_path):
    rows = [
        untried("levit_128s", 224, 98)._replace(num_params=7, embed_dim=384, at_global=WORKS, at_local="no"),
        untried("resnet18", 224, 98)._replace(num_params=11, embed_dim=512, at_global=WORKS, at_local=WORKS),
        untried("vit_x", 224, 98, "no answer within 1 s"),
    ]
    write_rows(tmp_path / "zoo.csv", reversed(rows))
    assert list(read_rows(tmp_path / "zoo.csv").values()) == rows
    text = report_text(rows, {"Date": "today"})
    assert "| all | 3 | 2 | 1 |" in text and "| vit | 1 | 0 | 0 |" in text and "| 1 | no | none |" in text
    (tmp_path / "zoo.csv").write_text("backbone\nresnet18\n")
    with pytest.raises(UserError, match="has other columns"):
        read_rows(tmp_path / "zoo.csv")


# 6. Isolation


@pytest.mark.slow
def test_a_crash_and_a_hang_stay_in_their_process():
    assert isolated(len, "answer", limit_s=120) == 6
    with pytest.raises(UserError, match="died with exit status 3"):
        isolated(os._exit, 3, limit_s=120)
    with pytest.raises(UserError, match=r"no answer within 0\.5 s"):
        isolated(time.sleep, 600, limit_s=0.5)
    assert isolated(len, "answer", limit_s=120) == 6


# 7. The stage


def test_the_stage_goes_on_where_it_stopped(tmp_path, monkeypatch):
    tried = []

    def check(function, name, *sizes, limit_s):
        tried.append(name)
        if name == "c":
            raise UserError("no answer within 1 s")
        return untried(name, *sizes, WORKS)._replace(at_local=WORKS)

    monkeypatch.setattr(stage, "isolated", check)
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
    assert "| other | 4 | 2 | 2 |" in (tmp_path / "zoo.md").read_text()
    assert stage.main(*arguments) == 0 and tried == ["b", "c", "d"]


def test_a_list_without_names_is_an_error(tmp_path):
    (tmp_path / "names.txt").write_text("# nothing\n")
    with pytest.raises(UserError, match=r"there are no names in .*names.txt"):
        stage.main(str(tmp_path / "names.txt"), "--reports", str(tmp_path))


def test_names_come_from_parameter_files(tmp_path, monkeypatch):
    monkeypatch.setattr(families, "known_backbones", lambda: ["inception_next_atto", "inception_next_tiny", "resnet18"])
    (tmp_path / "params.yaml").write_text("grid: {backbones: {families: [inception], max_params: 5.0e+6}}")
    assert stage.names_of(tmp_path / "params.yaml") == ["inception_next_atto"]
