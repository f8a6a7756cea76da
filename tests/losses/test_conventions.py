"""Claims: each convention gives the w of known runs; its loss, written out, weighs the same two numbers in the ratio w;
converting there and back changes nothing."""

from __future__ import annotations

import pytest
import torch

from pipeline.losses.conventions import CONVENTIONS, convert, weight
from pipeline.losses.lejepa import epps_pulley


@pytest.mark.parametrize(
    ("name", "lamb", "num_images", "num_views", "w"),
    [
        ("lejepa", 0.05, 512, 8, 27),
        ("lightly", 0.05, 512, 8, 27),
        ("minimal_example", 0.02, 256, 4, 5.2),
        ("stable_pretraining", 0.02, 256, 4, 20.5),
        *(("eb_jepa", lamb, 256, 2, w) for lamb, w in [(0.1, 0.025), (1, 0.25), (10, 2.5), (100, 25)]),
    ],
)
def test_known_runs(name, lamb, num_images, num_views, w):
    assert CONVENTIONS[name].to_w(lamb, num_images, num_views) == pytest.approx(w, rel=0.01)
    for other in CONVENTIONS:
        there = convert(lamb, name, other, num_images=num_images, num_views=num_views)
        back = convert(there, other, name, num_images=num_images, num_views=num_views)
        assert back == pytest.approx(lamb)


@pytest.mark.parametrize("num_views", [2, 3])
def test_losses_as_written_weigh_in_the_ratio_w(num_views):
    """d loss / d(integral) over d loss / d(distance from the mean), of equal views' samples scaled apart."""
    num, lamb = 32, 0.3
    z = torch.randn(num_views, num, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    spread = (z - z.mean(0)).square().mean()
    pairwise = torch.stack([(a - b).square().mean() for i, a in enumerate(z) for b in z[i + 1 :]]).mean()
    integral = epps_pulley(z).mean() / num
    written = {
        "lejepa": ((1 - lamb) * spread, lamb * num * integral),
        "stable_pretraining": (spread, lamb * num_views * num * integral),
        "eb_jepa": (pairwise, lamb * integral),
    }
    for name, (distance, regulariser) in written.items():
        w = CONVENTIONS[name].to_w(lamb, num, num_views)
        assert (regulariser / integral / (distance / spread)).item() == pytest.approx(w)


def test_ends_and_refusals():
    assert weight(0.0, 64) == 0 and weight(1.0, 64) == float("inf") and weight(0.5) == 1
    with pytest.raises(ValueError, match="unknown convention 'jax'; known: lejepa, "):
        convert(0.1, "jax", "lejepa", num_images=64, num_views=2)
    with pytest.raises(ValueError, match="num_views >= 2, got 1"):
        convert(0.1, "eb_jepa", "lejepa", num_images=64, num_views=1)
