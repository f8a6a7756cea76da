"""From a validated grid to the settings of every cell's stages, each backbone tried."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import nn

from pipeline.models import backbones
from pipeline.models.sites import check_site
from pipeline.runtime.bars import bar
from pipeline.runtime.errors import UserError, did_you_mean
from pipeline.runtime.rooms import own_objective
from pipeline.schema.pretrain import Layout, Pretrain
from pipeline.schema.resolved import EXECUTION, Execution, PretrainRun, ProbeRun, TrainedWith
from pipeline.settings.cells import Cell
from pipeline.settings.grid import Listing
from pipeline.settings.objective_rules import objective_problems


class CellConfigs(NamedTuple):
    """Settings of a cell's stages; `pretrain` is None for a frozen model."""

    pretrain: PretrainRun | None
    probe: ProbeRun
    execution: Execution

    def files(self) -> dict[str, dict[str, Any]]:
        """Return the contents of the files in configs/<cell>, by name, as JSON values."""
        trained = {"pretrain.json": self.pretrain.result_key()} if self.pretrain else {}
        return {**trained, "probe.json": self.probe.result_key(), EXECUTION: self.execution.model_dump(mode="json")}


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
    judged: dict[tuple, list[str]] = {}
    cells = [] if problems else listing.cells
    for cell in bar("try settings", len(cells), unit="cell", delay_s=2.0, iterable=cells):
        pretrain, probe, _ = listing.settings(cell)
        execution = Execution.of(pretrain, probe)
        if cell.frozen:
            configs[cell] = CellConfigs(None, _probe_run(cell, listing, model=listing.beside(cell)), execution)
            continue
        pattern = listing.settings.pattern(cell)
        if pattern not in judged:
            judged[pattern] = objective_problems(pretrain, listing.params.grid.lambdas)
            problems += [problem for problem in judged[pattern] if problem not in problems]
        if judged[pattern]:
            continue
        geometry = str((*_geometry(cell.backbone, pretrain), probe.site))
        if geometry not in checked:
            checked[geometry] = _check(cell.backbone, pretrain, probe.site, problems)
        if checked[geometry]:
            kwargs, info = checked[geometry]
            trained = _pretrain_run(cell, listing, kwargs, info.embed_dim)
            configs[cell] = CellConfigs(trained, _probe_run(cell, listing, backbone_kwargs=kwargs), execution)
    return configs, problems


def _geometry(backbone: str, pretrain: Pretrain) -> tuple:
    views = pretrain.views
    sizes = views.global_px, views.local_px, views.num_local > 0
    return backbone, pretrain.backbone, *sizes, pretrain.batch_size, pretrain.layout


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
        with torch.device("meta"):
            backbone = backbones.create_backbone(name, kwargs)
        _check_layout(name, backbone, info, pretrain.layout)
        check_site(backbone, site, views.global_px)
    except UserError as error:
        problems.append(str(error))
        return None
    return kwargs, info


def _check_layout(name: str, backbone: nn.Module, info: backbones.BackboneInfo, layout: Layout) -> None:
    if info.has_batchnorm and layout.micro_batch_size:
        raise UserError(
            f"backbone {name!r} has BatchNorm, so that micro-batches would change the result: "
            f"pretrain.layout.micro_batch_size must be null, got {layout.micro_batch_size}; set it to "
            "null and spread the batch over more processes, or set it for other backbones alone in overrides"
        )
    if layout.checkpoint_activations and (reason := backbones.no_recomputing(backbone)):
        raise UserError(
            f"backbone {name!r} {reason}: pretrain.layout.checkpoint_activations must be false, got true; set it to "
            "false and spread the batch over more processes, or set it for other backbones alone in overrides"
        )
    if layout.sharded and any(parameter.ndim == 0 for parameter in backbone.parameters()):
        raise UserError(
            f"backbone {name!r} has a parameter that is a single number, which cannot be divided: "
            "pretrain.layout.sharded must be false, got true; set it for other backbones alone in overrides"
        )


def _pretrain_run(cell: Cell, listing: Listing, kwargs: dict[str, Any], embed_dim: int) -> PretrainRun:
    pretrain, probe, _ = listing.settings(cell)
    return PretrainRun(
        **_axes(cell),
        backbone_kwargs=kwargs,
        data=f"data/{cell.dataset}",
        embed_dim=embed_dim,
        objective_files=own_objective(pretrain.objective),
        out=f"{listing.owners[cell].folder}/pretrain",
        pretrain=pretrain,
        probe=probe,
    )


def _probe_run(cell: Cell, listing: Listing, **architecture: Any) -> ProbeRun:
    pretrain, probe, _ = listing.settings(cell)
    return ProbeRun(
        **_axes(cell),
        **architecture,
        data=f"data/{cell.probed_on}",
        weights=listing.weights(cell),
        beside=listing.beside(cell),
        out=f"{cell.folder}/probe",
        device=pretrain.device,
        precision=pretrain.precision,
        load_px=pretrain.load_px,
        views=pretrain.views,
        trained=TrainedWith.of(pretrain, own_objective(pretrain.objective)),
        probe=probe,
        loader=pretrain.loader,
    )


def _axes(cell: Cell) -> dict[str, Any]:
    names = {"grid": cell.grid, "cell": cell.key, "dataset": cell.dataset, "backbone": cell.backbone}
    drawn = {"lamb": cell.lamb, "seed": cell.seed, "target": cell.probed_on, "choices": dict(cell.choices)}
    return names | drawn
