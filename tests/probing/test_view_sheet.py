"""Claim: the picture of views shows an image a row and a view a column, in the images' own colours."""

from __future__ import annotations

import io

import numpy as np
import torch
from PIL import Image

from pipeline.data.packed import ImageBatch
from pipeline.data.views.multicrop import Multicrop
from pipeline.probing.view_sheet import CELL_PX, GAP_PX, draw


def test_views_are_shown_in_rows_and_columns():
    pixels = (torch.arange(3) * 100).to(torch.uint8).view(3, 1, 1, 1).expand(3, 1, 16, 16)
    plain = dict.fromkeys(("jitter_prob", "grey_prob", "blur_prob", "solarize_prob"), 0.0)
    views = Multicrop(num_global=2, num_local=1, global_px=16, local_px=8, **plain)
    page = np.asarray(Image.open(io.BytesIO(draw(ImageBatch(pixels, torch.zeros(3)), views))).convert("RGB"))
    step = CELL_PX + GAP_PX
    assert page.shape == (3 * step - GAP_PX, 3 * step - GAP_PX, 3)
    middles = page[CELL_PX // 2 :: step, CELL_PX // 2 :: step].astype(int)
    assert np.abs(middles - np.array([0, 100, 200])[:, None, None]).max() <= 1
