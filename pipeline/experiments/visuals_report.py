"""The page of figures 13 and 14: what the sheet shows, the measured separation, and the answers to the claims."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas
import torch

from pipeline.experiments.synthetic_report import Report, prose
from pipeline.experiments.visuals import bootstrap_interval
from pipeline.experiments.visuals_measure import MEASURES, NETWORKS, Found, Settings
from pipeline.reports.claims import Claim, markdown_table

COLUMNS = ("image", "label", *(f"{measure}_{network}" for measure in MEASURES for network in NETWORKS))
SUBJECTS = {"pca": "first principal component of patch features", "attention": "attention of the last layer"}


def claims(rows: Sequence[Mapping[str, Any]], seed: int) -> list[Claim]:
    """Answer whether training made the maps tell the middle of images from their border.

    Args:
        rows: of `visuals_measure.Found`.
        seed: of the bootstrap over images.

    Returns:
        A claim for each measure; `ours` is the centre AUROC in percent, trained minus best random init. Reproduced if
        the 95 % interval of its mean over images lies above 0: among n initialisations one more untrained network would
        pass with a chance of at most 1 / (n + 1). One network was trained: no deviation over seeds.
    """
    found = []
    for measure, subject in SUBJECTS.items():
        gains = torch.tensor([row[f"{measure}_trained"] - row[f"{measure}_best_init"] for row in rows])
        low, _ = bootstrap_interval(gains, seed=seed)
        text = f"centre AUROC of the {subject}, trained minus best random init, points"
        verdict = "reproduced" if low > 0 else "differs"
        found.append(Claim(text, "> 0", f"{100 * float(gains.mean()):.1f}", "", 1, verdict))
    return found


def report(found: Found, settings: Settings, name: str) -> Report:
    """Put the report together.

    Args:
        found: of `visuals_measure.measure`.
        settings: that it was measured with.
        name: of the sheet's file, without suffix.
    """
    rows = found.rows
    whose = "the class token's, mean over heads" if found.has_class_token else "the mean absolute activation"
    scope = "of each image by itself" if settings.pca == "image" else "of all shown images together"
    values = {"settings": settings, "model": found.model, "grid": found.grid, "mass": 100 * settings.attention_mass}
    values |= {"num_images": len(rows), "num_inits": len(settings.random_init_seeds)}
    text = prose("visuals", name=name, scope=scope, whose=whose, table=_table(rows, settings.seed), **values)
    title = "Figures 13 and 14: patch features as colours, attention as a mask"
    return Report(title, text, pandas.DataFrame(rows)[list(COLUMNS)], {}, claims(rows, settings.seed))


def _table(rows: Sequence[Mapping[str, Any]], seed: int) -> str:
    lines = []
    for measure, subject in SUBJECTS.items():
        for network in NETWORKS:
            values = torch.tensor([row[f"{measure}_{network}"] for row in rows])
            low, high = bootstrap_interval(values, seed=seed)
            spread = f"{100 * low:.1f} to {100 * high:.1f}"
            lines.append((subject, network.replace("_", " "), f"{100 * float(values.mean()):.1f}", spread))
    return markdown_table(("score", "network", "centre AUROC", "interval"), lines)
