"""The page of figures 13 and 14: what the sheet shows, the measured separation, and the answers to the claims."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas
import torch

from pipeline.experiments.synthetic_report import Report
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
    rows, model = found.rows, found.model
    whose = "the class token's, mean over heads" if found.has_class_token else "the mean absolute activation"
    scope = "of each image by itself" if settings.pca == "image" else "of all shown images together"
    text = (
        f"Weights: `{Path(settings.weights)}` ({model['backbone']}, trained at {model['img_size_px']} px), shown "
        f"{settings.size_px} px images of {settings.dataset}, {settings.split} split, on a grid of "
        f"{found.grid[0]} × {found.grid[1]} positions.\n\n![{name}](plots/{name}.png)\n\n"
        f"- **PCA**: the first three components of the last layer's features {scope}, as red, green and blue.\n"
        f"- **attention**: {whose}, and the positions that hold {100 * settings.attention_mass:g} % of it.\n"
        f"- **random init**: the same architecture before training, seed {settings.random_init_seeds[0]}.\n\n"
        "A map of attention has the colours of its own smallest to its own largest value.\n\n"
        f"Centre AUROC, %: the chance that a position of the middle ({settings.centre_frac:g} of the side) scores "
        f"above one of the border; mean over {len(rows)} images and its 95 % bootstrap interval. Random init: the mean "
        f"over {len(settings.random_init_seeds)} seeds; best init: the best of them. The number says nothing of "
        f"outlines, and a map that is the same for every image can score well.\n\n{_table(rows, settings.seed)}"
    )
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
