"""Claims about the pictures of a backbone:

1. PCA is numpy's SVD with a sign that does not depend on the solver.
2. A sheet has equal bytes for equal input, and each picture in its place.
3. Neighbours are those of a plain argsort of cosine similarities.
4. Points on the map keep groups together; the agreement is that of plain loops.
5. Images on the sheets are of as many classes as possible, equal for an equal seed.
"""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import normalize

from pipeline.pictures import neighbours
from pipeline.pictures.colours import principal_components
from pipeline.pictures.embedding_map import agreement, make_map
from pipeline.pictures.image_set import shown_images
from pipeline.pictures.neighbours import nearest
from pipeline.pictures.sheet import CELL_PX, GAP_PX, HEAD_PX, sheet
from tests.small_networks import random


def opened(png: bytes) -> Image.Image:
    return Image.open(io.BytesIO(png)).convert("RGB")


# 1. Colours


def test_components_are_those_of_numpy():
    features = random(3, 5, 5, 12) * torch.linspace(3, 1, 12)
    mean, components = principal_components(features, 3)
    vectors = features.reshape(-1, 12).double().numpy()
    _, _, rows = np.linalg.svd(vectors - vectors.mean(0))
    signs = np.sign(rows[np.arange(12), np.abs(rows).argmax(1)])
    np.testing.assert_allclose(components, (rows * signs[:, None])[:3], atol=1e-9)
    np.testing.assert_allclose(mean, vectors.mean(0), atol=1e-12)


# 2. Sheets

RED, BLUE = (torch.zeros(2, side, side, 3, dtype=torch.uint8) for side in (2, 500))
RED[..., 0] = 255
BLUE[1, ..., 2] = 255


def test_sheet_puts_each_picture_in_its_place():
    rows = list(zip(RED, BLUE, strict=True))
    assert sheet(rows, above=["red", "large"]) == sheet(rows, above=["red", "large"])
    drawn = opened(sheet(rows, above=["red", "large"]))
    step, top = CELL_PX + GAP_PX, HEAD_PX + GAP_PX
    assert drawn.size == (2 * step + GAP_PX, 2 * step + HEAD_PX + GAP_PX)
    assert drawn.getpixel((GAP_PX + 5, top + 5)) == (255, 0, 0)
    assert drawn.getpixel((GAP_PX + step + 5, top + 5)) == (0, 0, 0)
    assert drawn.getpixel((GAP_PX + step + 5, top + step + 5)) == (0, 0, 255)
    with pytest.raises(ValueError, match=r"one length, got \[1, 2\]"):
        sheet(rows, above=["red"])


# 3. Neighbours


def test_neighbours_are_those_of_a_plain_argsort(monkeypatch):
    queries, references = random(7, 5), random(1500, 5, seed=1)
    unit = references / references.norm(dim=1, keepdim=True)
    expected = np.argsort(-(queries @ unit.T).numpy(), axis=1)[:, :4]
    assert nearest(queries, references, 4).tolist() == expected.tolist()
    monkeypatch.setattr(neighbours, "BLOCK", 2)
    assert torch.equal(nearest(3 * queries, references, 4), torch.tensor(expected.copy()))
    assert nearest(queries, references[:2], 4).shape == (7, 2)


# 4. Maps

LABELS = torch.arange(60) % 3


def groups(spread: float = 0.1) -> torch.Tensor:
    return 5 * random(3, 8, seed=1)[LABELS] + spread * random(60, 8)


@pytest.mark.seconds
def test_groups_stay_together_on_the_map():
    found = make_map(groups(), LABELS)
    assert found.agreement == found.embedding_agreement == 1
    mixed = make_map(random(60, 8), LABELS)
    assert mixed.agreement == agreement(mixed.points, LABELS) < 0.5
    assert mixed.embedding_agreement == agreement(normalize(random(60, 8), dim=1), LABELS) < 0.5
    assert mixed.agreement != mixed.embedding_agreement


def test_agreement_is_that_of_plain_loops():
    points = random(40, 2).double()
    labels = torch.arange(40) % 2
    shares = []
    for i in range(40):
        others = sorted((j for j in range(40) if j != i), key=lambda j, i=i: float((points[i] - points[j]).norm()))
        shares.append(np.mean([float(labels[j] == labels[i]) for j in others[:10]]))
    assert agreement(points, labels) == pytest.approx(np.mean(shares))
    assert agreement(points[:2], torch.zeros(2)) == 1


# 5. Images on the sheets


def test_shown_images_are_of_many_classes():
    labels = torch.tensor([0] * 10 + [1] * 10 + [2])
    found = shown_images(labels, 5, seed=0)
    assert labels[found].bincount().tolist() in ([2, 2, 1], [3, 1, 1], [1, 3, 1])
    assert len(found.unique()) == 5 and (labels[found].diff() >= 0).all()
    assert torch.equal(found, shown_images(labels, 5, seed=0))
    assert any(not torch.equal(found, shown_images(labels, 5, seed=seed)) for seed in range(1, 4))
    assert labels[shown_images(labels, 3, seed=1)].tolist() == [0, 1, 2]
    assert len(shown_images(labels, 100, seed=0)) == 21
