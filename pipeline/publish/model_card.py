"""The card of a published model: what it is of, how to use it, its numbers, data, settings, licence and command."""

from __future__ import annotations

import re
from pathlib import Path
from string import Template
from typing import Any

import pandas as pd
import yaml

from pipeline.catalogue.validation import read_section
from pipeline.publish.finished_cell import FinishedCell
from pipeline.reports.comparison import score_label
from pipeline.reports.render import bullets, markdown_table, percent
from pipeline.reports.tables import LOSS_COLUMNS
from pipeline.runtime.project import repro_command
from pipeline.schema.parameters import Report
from pipeline.tracking.record import alarm_tag

TEMPLATE = Path(__file__).with_suffix(".md")
BASELINES = {"random init": "random_init_", "raw pixels": "raw_pixels_"}


def model_card(cell: FinishedCell, *, licence: str, address: str) -> str:
    """Return the card as Markdown.

    Args:
        cell: whose numbers it shows, as reports/comparison.md shows them.
        licence: of the weights.
        address: of timm.create_model.
    """
    run, summary, origin = cell.run, cell.summary, cell.provenance
    objective = summary.get("objective", "lejepa")
    hardware = origin["hardware"]
    site, mode = run.probe.site, run.probe.mode
    settings = {"pretrain": cell.trained["pretrain"], "probe": run.probe.model_dump(mode="json")}
    return Template(TEMPLATE.read_text(encoding="utf-8")).substitute(
        title=f"{run.backbone}, {objective} on {run.dataset}",
        licence=licence,
        objective=objective,
        objective_tag=objective.rpartition(".")[2].lower(),
        backbone=run.backbone,
        num_params=f"{summary['num_params']:,}",
        embed_dim=summary["embed_dim"],
        dataset=run.dataset,
        target=run.target,
        lamb=run.lamb,
        seed=run.seed,
        epochs=summary["epochs"],
        address=address,
        size_px=run.views.global_px,
        site_note="" if site == "pooled" else f", at the probe site `{site}` (pipeline.models.sites)",
        probe_note="frozen" if mode == "frozen" else "fine-tuned from these weights",
        alarm_note=f" Alarms of the training: {alarm_tag(cell.alarms)}." if cell.alarms else "",
        scores=markdown_table(_scores(cell)),
        losses=", ".join(f"{name} {summary[name]:.4g}" for name in LOSS_COLUMNS if name in summary),
        data=_data(cell.meta),
        settings=yaml.safe_dump(settings, sort_keys=False, default_flow_style=None).strip(),
        commit=origin["commit"],
        versions=", ".join(f"{name} {number}" for name, number in origin["versions"].items()),
        hardware=f"{origin['num_processes']} × {hardware.get('device_name', hardware['device'])}",
        minutes=f"{origin.get('wall_s', 0) / 60:.1f}",
        command=repro_command(cell.params),
        cell=run.cell,
    )


def _scores(cell: FinishedCell) -> pd.DataFrame:
    """Return a row a score: learned, and the baselines that were measured."""
    decimals = read_section(cell.params, "report", Report).decimals
    names = {re.sub("^(random_init|raw_pixels)_", "", name) for name in cell.scores}
    names = {name for name in names if not name.endswith("_std")}
    order = sorted(names, key=lambda name: (re.findall(r"\d+shot", name) != [], "knn" in name, len(name), name))
    columns = {"learned": ""} | {head: key for head, key in BASELINES.items() if f"{key}linear_top1" in cell.scores}
    rows = [
        {"probe": score_label(name)}
        | {head: _shown(cell.scores, prefix + name, decimals) for head, prefix in columns.items()}
        for name in order
    ]
    return pd.DataFrame(rows, columns=["probe", *columns])


def _shown(scores: dict[str, float], name: str, decimals: int) -> str:
    spread = f" ± {percent(scores[f'{name}_std'], decimals)}" if f"{name}_std" in scores else ""
    return percent(scores.get(name), decimals) + spread


def _data(meta: dict[str, Any]) -> str:
    counts = [meta["splits"][split]["num_images"] for split in ("train", "test")]
    source = {name: value for name, value in meta["source"].items() if value is not None}
    return bullets(
        [
            f"{meta['name']}: {counts[0]:,} training and {counts[1]:,} test images of {len(meta['classes'])} classes",
            f"from {meta['origin']}",
            f"entry of the catalogue: `{yaml.safe_dump(source, default_flow_style=True, width=10**6).strip()}`",
        ]
    )
