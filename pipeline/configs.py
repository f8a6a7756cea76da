"""From a validated grid to one file of settings per cell and stage: all that determines the cell's result."""

from __future__ import annotations

from typing import Any, NamedTuple

from pipeline import backbones
from pipeline.params import Cell, grid_cells, resolve
from pipeline.schema import Params, Pretrain, Probe
from pipeline.statistics import STATISTICS
from pipeline.validation import did_you_mean


class CellConfigs(NamedTuple):
    """Contents of configs/<cell>/pretrain.json and configs/<cell>/probe.json."""

    pretrain: dict[str, Any]
    probe: dict[str, Any]


def resolve_grid(params: Params, grid: str) -> tuple[dict[Cell, CellConfigs], list[str]]:
    """Resolve every cell and try each backbone at the resolutions it will see.

    Returns:
        {cell: settings} and the problems found; with problems, nothing should be run.
    """
    problems = [
        f"unknown backbone {name!r} in grid.backbones{did_you_mean(name, backbones.known_backbones())}"
        for name in params.grid.backbones
        if not backbones.is_known(name)
    ]
    configs: dict[Cell, CellConfigs] = {}
    checked: dict[str, Any] = {}
    for cell in grid_cells(params, grid) if not problems else []:
        pretrain, probe = resolve(params, cell)
        if pretrain.sigreg.statistic not in STATISTICS:
            name = pretrain.sigreg.statistic
            problems.append(f"unknown statistic {name!r} in pretrain.sigreg.statistic{did_you_mean(name, STATISTICS)}")
            break
        geometry = _geometry(cell.backbone, pretrain)
        if str(geometry) not in checked:
            checked[str(geometry)] = _check(cell.backbone, pretrain, problems)
        if checked[str(geometry)]:
            kwargs, info = checked[str(geometry)]
            configs[cell] = _cell_configs(cell, pretrain, probe, kwargs, info.embed_dim)
    return configs, problems


def _geometry(backbone: str, pretrain: Pretrain) -> tuple:
    views = pretrain.views
    return backbone, pretrain.backbone, views.global_px, views.local_px, views.num_local > 0, pretrain.batch_size


def _check(name: str, pretrain: Pretrain, problems: list[str]) -> tuple[dict, backbones.BackboneInfo] | None:
    views = pretrain.views
    try:
        kwargs = backbones.backbone_arguments(name, img_size=views.global_px, **pretrain.backbone.model_dump())
        local_px = views.local_px if views.num_local else None
        info = backbones.check_backbone(
            name, kwargs, global_px=views.global_px, local_px=local_px, batch_size=pretrain.batch_size
        )
    except backbones.BackboneError as error:
        problems.append(str(error))
        return None
    return kwargs, info


def _cell_configs(cell: Cell, pretrain: Pretrain, probe: Probe, kwargs: dict, embed_dim: int) -> CellConfigs:
    common = {
        "grid": cell.grid,
        "cell": cell.key,
        "dataset": cell.dataset,
        "backbone": cell.backbone,
        "lambda": cell.lamb,
        "seed": cell.seed,
        "data": f"data/{cell.dataset}",
        "backbone_kwargs": kwargs,
    }
    settings, views = pretrain.model_dump(mode="json"), pretrain.views
    reading = {
        "size_px": views.global_px,
        "load_px": pretrain.load_px,
        "batch_size": probe.batch_size,
        "mean": views.mean,
        "std": views.std,
        **pretrain.loader.model_dump(),
    }
    return CellConfigs(
        pretrain={**common, "embed_dim": embed_dim, "out": f"{cell.folder}/pretrain", "pretrain": settings},
        probe={
            **common,
            "weights": f"{cell.folder}/pretrain/backbone.safetensors",
            "out": f"{cell.folder}/probe",
            "device": pretrain.device,
            "precision": pretrain.precision,
            "reading": reading,
            "probe": probe.model_dump(mode="json", exclude={"batch_size"}),
        },
    )
