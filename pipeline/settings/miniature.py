"""A minutes-long version of a paper pipeline: the same graph and programs on bundled data with tiny backbones.

Cells: the first and the last of the grid, which differ in every axis; of frozen models alike. Names of data sets and
backbones are replaced in the published rows as well, so that the comparison is filled; its numbers test the code and
say nothing about the paper.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from pipeline.core.csv_files import csv_text
from pipeline.runtime.files import write_text
from pipeline.settings.cells import Cell, merge
from pipeline.settings.grid import Listing, is_about

# Digits stand for every set but the first one of the tables with several, so that two remain.
DIGITS, OTHERS = "digits", {"flowers102": "fashion-mnist-8k", "dtd": "fashion-mnist-8k"}
# By the beginning of the name; two of a family get two stand-ins.
TINY = {
    "vit": ("test_vit", "vit_tiny_patch16_224"),  # the only ones with a class token
    "convnext": ("test_convnext", "test_convnext2", "test_convnext3"),
    "res": ("test_resnet", "test_byobnet"),
    "": ("test_efficientnet", "test_mambaout", "test_byobnet"),
}
MODEL = "random-vit"
# Digits have 146 training images in the largest class.
MOST_SHOTS = 100

PRETRAIN = {
    "epochs": 1,
    "batch_size": 64,
    "load_px": 32,
    "precision": "float32",
    "device": "cpu",
    "views": {"num_global": 2, "num_local": 1, "global_px": 32, "local_px": 16},
    "projector": {"embed_dim": 32, "proj_dim": 16},
    "sigreg": {"num_slices": 32},
    "predictor": {"hidden_dim": 32},
    "schedule": {"warmup_epochs": 0},
    "loader": {"memory_gb": 4, "num_workers": 0},
}
PROBE = {
    "batch_size": 256,
    "linear": {"learning_rates": [0.01, 0.03], "weight_decays": [1e-6], "epochs": 2, "batch_size": 512},
    "few_shot": {"num_draws": 1},
    "finetune": {"epochs": 1, "min_steps": 2, "batch_size": 64, "learning_rates": [1e-3]},
}


def figure_miniature(sections: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of a pipeline without a grid, its own `miniature` section laid over them."""
    own = {name: value for name, value in sections.items() if name not in ("miniature", "datasets", "models")}
    return merge(own, sections.get("miniature", {}))


def chosen_cells(cells: Sequence[Cell]) -> list[Cell]:
    """Return the first cell and the last, between which every axis changes; of frozen models alike."""
    groups = [[cell for cell in cells if cell.frozen == frozen] for frozen in (False, True)]
    return list(dict.fromkeys(cell for group in groups if group for cell in (group[0], group[-1])))


def names(listing: Listing) -> dict[str, str]:
    """Return what stands for each data set, backbone and model of the chosen cells."""
    cells = chosen_cells(listing.cells)
    sets = dict.fromkeys(name for cell in cells for name in (cell.dataset, cell.probed_on))
    stands = {name: OTHERS.get(name, DIGITS) for name in sets}
    for name in dict.fromkeys(cell.backbone for cell in cells):
        if name in listing.params.models:
            stands[name] = MODEL
            continue
        family = next(tiny for prefix, tiny in TINY.items() if name.startswith(prefix))
        stands[name] = next(tiny for tiny in (*family, *TINY[""]) if tiny not in stands.values())
    return stands


def grid_miniature(sections: dict[str, Any], listing: Listing, stands: dict[str, str]) -> dict[str, Any]:
    """Return the parameter file of the miniature.

    Args:
        sections: the pipeline's, `based_on` applied.
        listing: the pipeline, whole.
        stands: of `names`.
    """
    cells = chosen_cells(listing.cells)
    trained = [cell for cell in cells if not cell.frozen]
    axes = listing.params.grid.axes

    def kept(values: Sequence[Any], name: str, of: Sequence[Cell] = cells) -> list[Any]:
        return [value for value in values if any(cell.axes[name] == value for cell in of if name in cell.axes)]

    def named(values: Sequence[str]) -> list[str]:
        return list(dict.fromkeys(stands[value] for value in values if value in stands))

    grid = listing.params.grid
    small = {
        "datasets": named(grid.datasets),
        "backbones": named(kept(grid.backbones, "backbone")),
        "models": named(kept(grid.models, "backbone")),
        "targets": named(grid.targets),
        "lambdas": kept(grid.lambdas, "lambda", trained),
        "seeds": kept(grid.seeds, "seed"),
        "axes": {name: {"sets": axis.sets, "values": kept(axis.values, name)} for name, axis in axes.items()},
        "only_published": grid.only_published,
        "selected": grid.selected,
    }
    vits = {"when": {"backbone": "*vit*"}, "pretrain": {"backbone": {"patch_size": 8}}}
    return {
        "report": {**sections.get("report", {})},
        "shares": list(listing.params.shares),
        "grid": small,
        "pretrain": shrunk(sections["pretrain"], PRETRAIN, whole=True),
        "probe": shrunk(sections.get("probe", {}), PROBE, whole=True),
        "overrides": [vits, *_overrides(sections.get("overrides", []), cells, stands)],
    }


def _overrides(overrides: Sequence[dict], cells: Sequence[Cell], stands: dict[str, str]) -> list[dict]:
    """Rewrite each override for the stand-ins of what it selects, since its patterns are about other names."""
    out = []
    for override in overrides:
        when = override["when"]
        pairs = {
            (stands[cell.dataset], stands[cell.backbone])
            for cell in cells
            if fnmatchcase(cell.dataset, when.get("dataset", "*"))
            and fnmatchcase(cell.backbone, when.get("backbone", "*"))
        }
        for dataset, backbone in sorted(pairs):
            where = {**when, "dataset": dataset, "backbone": backbone}
            # What an override does to an axis is what the table is about: it stays.
            rules = {"pretrain": {}, "probe": {}} if when.get("axes") else {"pretrain": PRETRAIN, "probe": PROBE}
            small = {name: shrunk(override[name], rule) for name, rule in rules.items() if name in override}
            out.append({"when": where, **small})
    return out


def shrunk(settings: dict[str, Any], rule: dict[str, Any], *, whole: bool = False) -> dict[str, Any]:
    """Replace settings by the rule's smaller ones.

    Args:
        settings: a section, or what an override changes in it.
        rule: the miniature's values.
        whole: add the rule's values that the settings do not name; an override must not.
    """
    out = {}
    for key, value in settings.items():
        if isinstance(value, dict):
            out[key] = shrunk(value, rule.get(key, {}), whole=whole)
        elif key == "patch_size":
            out[key] = 8
        elif key == "hidden_dims":
            out[key] = [32 for _ in value]
        elif key == "shots":
            out[key] = [shots for shots in value if shots <= MOST_SHOTS]
        elif key == "num_local":
            out[key] = min(value, rule.get(key, value))
        else:
            out[key] = rule.get(key, value)
    extra = {key: value for key, value in rule.items() if key not in settings and key != "embed_dim"}
    return {**out, **extra} if whole else out


def published_miniature(
    rows: Sequence[dict[str, str]], cells: Sequence[Cell], stands: dict[str, str]
) -> list[dict[str, str]]:
    """Return the published rows of the chosen cells, under the names of the stand-ins."""
    renamed = ("dataset", "backbone", "target")
    kept = [row for row in rows if any(is_about(row, cell) for cell in cells) and _shots(row) <= MOST_SHOTS]
    return [{name: stands[value] if name in renamed else value for name, value in row.items()} for row in kept]


def _shots(row: dict[str, str]) -> int:
    found = re.search(r"_(\d+)shot", row.get("metric", ""))
    return int(found[1]) if found else 0


def write_yaml(path: Path, sections: dict[str, Any], folder: str) -> None:
    """Write a parameter file that says which folder it was made from."""
    text, yaml = io.StringIO(), YAML()
    yaml.representer.ignore_aliases = lambda *_: True
    yaml.dump(sections, text)
    head = f"# Written by `python -m stages.miniature {folder}`; its numbers say nothing.\n"
    write_text(path, head + text.getvalue())


def write_csv(path: Path, rows: Sequence[dict[str, str]]) -> None:
    """Write published rows as CSV."""
    write_text(path, csv_text(list(rows[0]) if rows else ["top1"], rows))
