"""From a validated grid to files of settings: per cell and stage all that determines the result, and how it is run."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from pipeline.catalogue.validation import did_you_mean
from pipeline.losses.univariate import STATISTICS
from pipeline.models import backbones
from pipeline.models.sites import check_site
from pipeline.runtime.bars import bar
from pipeline.runtime.errors import UserError
from pipeline.settings.cells import Cell, Resolver
from pipeline.settings.grid import Listing
from pipeline.settings.schema import Pretrain, Probe

# Sections of `pretrain` that never change a result. No stage depends on their file, so they can be changed at any time.
EXECUTION = {"loader", "checkpoint", "layout"}


class CellConfigs(NamedTuple):
    """Contents of configs/<cell>/pretrain.json (None for a frozen model), probe.json and execution.json."""

    pretrain: dict[str, Any] | None
    probe: dict[str, Any]
    execution: dict[str, Any]


def resolve_listing(listing: Listing) -> tuple[dict[Cell, CellConfigs], list[str]]:
    """Resolve every cell and try each backbone at the resolutions it will see.

    Returns:
        {cell: settings} and the problems found; with problems, nothing should be run.
    """
    problems = [
        f"unknown backbone {name!r} in grid.backbones{did_you_mean(name, backbones.known_backbones())}"
        for name in listing.params.grid.backbones
        if not backbones.is_known(name)
    ]
    configs: dict[Cell, CellConfigs] = {}
    checked: dict[str, Any] = {}
    resolver, cells = Resolver(listing.params), [] if problems else listing.cells
    for cell in bar("try settings", len(cells), unit="cell", delay_s=2.0, iterable=cells):
        pretrain, probe, _ = resolver(cell)
        if cell.frozen:
            configs[cell] = CellConfigs(None, _frozen_config(cell, listing, pretrain, probe), _execution(pretrain))
            continue
        if pretrain.sigreg.statistic not in STATISTICS:
            name = pretrain.sigreg.statistic
            problems.append(f"unknown statistic {name!r} in pretrain.sigreg.statistic{did_you_mean(name, STATISTICS)}")
            break
        geometry = (*_geometry(cell.backbone, pretrain), probe.site)
        if str(geometry) not in checked:
            checked[str(geometry)] = _check(cell.backbone, pretrain, probe.site, problems)
        if checked[str(geometry)]:
            kwargs, info = checked[str(geometry)]
            configs[cell] = _cell_configs(cell, listing, pretrain, probe, kwargs, info.embed_dim)
    return configs, problems


def _geometry(backbone: str, pretrain: Pretrain) -> tuple:
    views, micro_batch_size = pretrain.views, pretrain.layout.micro_batch_size
    sizes = views.global_px, views.local_px, views.num_local > 0
    return backbone, pretrain.backbone, *sizes, pretrain.batch_size, micro_batch_size


def _check(name: str, pretrain: Pretrain, site: str, problems: list[str]) -> tuple[dict, backbones.BackboneInfo] | None:
    views = pretrain.views
    try:
        asked = pretrain.backbone.model_dump()
        asked["kwargs"] = {key: value for key, value in asked["kwargs"].items() if value is not None}
        kwargs = backbones.backbone_arguments(name, img_size=views.global_px, **asked)
        local_px = views.local_px if views.num_local else None
        info = backbones.check_backbone(
            name, kwargs, global_px=views.global_px, local_px=local_px, batch_size=pretrain.batch_size
        )
        if info.has_batchnorm and pretrain.layout.micro_batch_size:
            raise UserError(
                f"backbone {name!r} normalises over the batch, which parts of it cannot do exactly: "
                f"pretrain.layout.micro_batch_size must be null, got {pretrain.layout.micro_batch_size}; set it to "
                "null and spread the batch over more processes, or set it for other backbones alone in overrides"
            )
        with torch.device("meta"):
            check_site(backbones.create_backbone(name, kwargs), site, views.global_px)
    except UserError as error:
        problems.append(str(error))
        return None
    return kwargs, info


def _cell_configs(
    cell: Cell, listing: Listing, pretrain: Pretrain, probe: Probe, kwargs: dict, embed_dim: int
) -> CellConfigs:
    common = {**_common(cell), "backbone_kwargs": kwargs}
    trained = {"data": f"data/{cell.dataset}", "embed_dim": embed_dim, "out": f"{listing.owners[cell].folder}/pretrain"}
    views = pretrain.views
    seen = {"size_px": views.global_px, "mean": views.mean, "std": views.std}
    return CellConfigs(
        pretrain={**common, **trained, "pretrain": pretrain.model_dump(mode="json", exclude=EXECUTION)},
        probe={**common, **_probe_config(cell, listing, pretrain, probe, seen)},
        execution=_execution(pretrain),
    )


def _execution(pretrain: Pretrain) -> dict[str, Any]:
    return pretrain.model_dump(mode="json", include=EXECUTION)


def _frozen_config(cell: Cell, listing: Listing, pretrain: Pretrain, probe: Probe) -> dict[str, Any]:
    """Settings of a frozen model's probe; what it sees stands in its own model.json, which is fetched later."""
    return {**_common(cell), "model": listing.beside(cell), **_probe_config(cell, listing, pretrain, probe, {})}


def _common(cell: Cell) -> dict[str, Any]:
    return {
        "grid": cell.grid,
        "cell": cell.key,
        "dataset": cell.dataset,
        "backbone": cell.backbone,
        "lambda": cell.lamb,
        "seed": cell.seed,
        "target": cell.probed_on,
        "choices": dict(cell.choices),
    }


def _probe_config(cell: Cell, listing: Listing, pretrain: Pretrain, probe: Probe, seen: dict) -> dict[str, Any]:
    reading = {"load_px": pretrain.load_px, "batch_size": probe.batch_size}
    return {
        "data": f"data/{cell.probed_on}",
        "weights": listing.weights(cell),
        "beside": listing.beside(cell),
        "out": f"{cell.folder}/probe",
        "device": pretrain.device,
        "precision": pretrain.precision,
        "reading": {**seen, **reading},
        "views": pretrain.views.model_dump(mode="json"),
        "training": {"batch_size": pretrain.batch_size, "sigreg": pretrain.sigreg.model_dump(mode="json")},
        "probe": probe.model_dump(mode="json", exclude={"batch_size"}),
    }
