"""Claims: every committed parameter file of an experiment is valid, and so is its miniature; every broken key is named
with its file, path, rule and value.
"""

from __future__ import annotations

import pytest

from pipeline.catalogue.validation import read_section
from pipeline.experiments import anisotropy, quadrature, repair, resampling, sigreg_time, visuals_measure
from pipeline.runtime.errors import UserError
from pipeline.schema.trials import Trials
from tests.figure_params import PAPER, small_params

KINDS = {
    "figure3": ("anisotropy", anisotropy.Settings),
    "figure6": ("repair", repair.Settings),
    "figure7": ("resampling", resampling.Settings),
    "figure13": ("visuals", visuals_measure.Settings),
    "figure20": ("quadrature", quadrature.Settings),
    "objectives_laptop": ("trials", Trials),
    "table6": ("sigreg_time", sigreg_time.Settings),
}


@pytest.mark.parametrize("name", KINDS)
def test_parameter_files_are_valid(tmp_path, name):
    whole = read_section(PAPER / name / "params.yaml", *KINDS[name])
    assert whole != read_section(small_params(tmp_path, name), *KINDS[name])


@pytest.mark.parametrize(
    ("name", "change", "told"),
    [
        ("figure3", {"num_draws": 1}, "anisotropy.num_draws must be greater than or equal to 2, got 1"),
        ("figure3", {"condition_numbers": [2, 4]}, "anisotropy.condition_numbers must rise from 1 to another number"),
        ("figure6", {"statistics": ["eps_pulley"]}, "unknown entry 'eps_pulley'; did you mean 'epps_pulley'?"),
        ("figure6", {"seeds": [2, 2]}, "repair.seeds must not repeat a value, got 2 more than once"),
        ("figure13", {"num_shown": 40}, "visuals.num_shown must be <= visuals.num_images, 32, got 40"),
        (
            "figure20",
            {"slope_knots": [17, 5]},
            "quadrature.slope_knots must be two or more rising numbers, got [17, 5]",
        ),
    ],
)
def test_broken_settings_are_named(tmp_path, name, change, told):
    path = small_params(tmp_path, name, **change)
    with pytest.raises(UserError) as error:
        read_section(path, *KINDS[name])
    assert told in str(error.value) and path in str(error.value)
