"""Claims of pipeline.experiments.resampling and its report (figure 7):

1. Directions: unit columns; kept ones stay, fresh ones change; the same seed gives the same bits.
2. Directions that are kept fit themselves: SIGReg ends lower along them than along others.
3. Verdicts follow from the numbers, seed by seed.
"""

from __future__ import annotations

from itertools import islice

import pytest
import torch

from pipeline.experiments import resampling, resampling_report
from pipeline.experiments.resampling import FRESH, KEPT, Run, Settings


def settings(**changes):
    values = dict(schemes=[*KEPT, *FRESH], kept_slices=[16, 1024], fresh_slices=[16], num_samples=64, dim=32)
    values |= dict(spectrum_power=1.0, num_steps=60, watched_steps=[10, 60], lr=0.02, seeds=[0, 1], num_heldout=1000)
    return Settings(**values | changes)


@pytest.mark.parametrize("scheme", [*KEPT, *FRESH])
def test_direction_streams(scheme):
    run = Run(scheme, 8, 0)
    first, second = islice(resampling.direction_stream(run, 5), 2)
    again = next(resampling.direction_stream(run, 5))
    assert first.shape == (5, 8) and torch.equal(first, again)
    assert torch.allclose(torch.cat([first, second], 1).norm(dim=0), torch.ones(16))
    assert torch.equal(first, second) == (scheme in KEPT)
    assert not torch.equal(first, next(resampling.direction_stream(run._replace(seed=1), 5)))


def test_kept_directions_fit_themselves():
    kept, fresh = (resampling.measure(Run(name, 16, 0), settings()) for name in ("fixed", "resampled"))
    assert kept["trained_sigreg"] < 0.2 * kept["heldout_sigreg"]
    assert [step for step, _ in fresh["history"]] == [10, 60]
    assert fresh["history"][-1][1] == fresh["heldout_sigreg"] < fresh["history"][0][1]
    assert fresh["heldout_sigreg"] < 0.7 * kept["heldout_sigreg"]


def row(scheme, num_slices, seed, heldout, early=0.3):
    head = {"scheme": scheme, "num_slices": num_slices, "seed": seed}
    return {
        **head,
        "trained_sigreg": None if num_slices is None else 0.1,
        "heldout_sigreg": heldout,
        "history": [(10, early), (20, heldout)] if num_slices else [],
    }


ROWS = [
    *(row("resampled", 16, seed, 0.5, early=0.9) for seed in (0, 1)),
    *(row("fixed", 16, seed, 0.1) for seed in (0, 1)),  # not thousands: no claim
    *(row("fixed", 1024, seed, value) for seed, value in ((0, 1.0), (1, 0.75))),
    *(row("sobol_fixed", 4096, seed, value) for seed, value in ((0, 1.0), (1, 0.4))),
]


def test_verdicts():
    random, sobol = resampling_report.claims(ROWS)
    assert (random.ours, random.seeds, random.verdict) == ("1.75", 2, "reproduced")
    assert "1024 random" in random.claim and "4096 Sobol" in sobol.claim
    assert (sobol.ours, sobol.verdict) == ("1.40", "differs")
    (absent,) = resampling_report.claims(ROWS[:4])
    assert absent.verdict == "not run"
