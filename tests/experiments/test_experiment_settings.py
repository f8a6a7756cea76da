"""Claims about the settings of the experiments and `read_section`:

1. Every committed parameter file is valid, and so is its miniature.
2. Every unknown, missing or broken key is named with its file, path, rule and value.
3. A section must be there, and be a section.
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
        ("figure3", {"num_draws": True}, "anisotropy.num_draws must be a valid integer, got True"),
        ("figure3", {"ridge": 0}, "anisotropy.ridge must be greater than 0, got 0"),
        ("figure3", {"ridge": float("nan")}, "anisotropy.ridge must be a finite number, got nan"),
        ("figure3", {"condition_numbers": [2, 4]}, "anisotropy.condition_numbers must rise from 1 to another number"),
        ("figure3", {"condition_numbers": [1]}, "anisotropy.condition_numbers must rise from 1 to another number"),
        ("figure3", {"condition_numbers": [1, 8, 4]}, "anisotropy.condition_numbers must rise from 1"),
        ("figure6", {"statistics": ["eps_pulley"]}, "unknown entry 'eps_pulley'; did you mean 'epps_pulley'?"),
        ("figure6", {"dims": [1]}, "repair.dims.0 must be greater than or equal to 2, got 1"),
        ("figure6", {"dims": 4}, "repair.dims must be a list, got 4; write dims: [4]"),
        ("figure6", {"shift": -1.0}, "repair.shift must be greater than or equal to 0"),
        ("figure6", {"seeds": [2, 2]}, "repair.seeds must not repeat a value, got 2 more than once"),
        ("figure7", {"schemes": ["sobol"]}, "resampling.schemes.0 must be 'fixed', 'sobol_fixed'"),
        ("figure7", {"dim": 30_000}, "resampling.dim must be less than or equal to 21201, got 30000"),
        ("figure7", {"kept_slices": []}, "resampling.kept_slices must have at least 1 item"),
        ("figure13", {"num_shown": 40}, "visuals.num_shown must be <= visuals.num_images, 32, got 40"),
        ("figure13", {"pca": "each"}, "visuals.pca must be 'image' or 'images', got 'each'"),
        ("figure13", {"attention_mass": 0}, "visuals.attention_mass must be greater than 0, got 0"),
        ("figure13", {"centre_frac": True}, "visuals.centre_frac must be a valid number, got True"),
        ("figure13", {"batch": 2}, "unknown key visuals.batch; did you mean 'batch_size'"),
        ("figure20", {"t_max": [40]}, "quadrature.t_max.0 must be less than or equal to 12, got 40"),
        (
            "figure20",
            {"slope_knots": [17, 5]},
            "quadrature.slope_knots must be two or more rising numbers, got [17, 5]",
        ),
        ("figure20", {"slope_knots": [17]}, "quadrature.slope_knots must be two or more rising numbers, got [17]"),
        ("table6", {"max_terms": 1.5}, "sigreg_time.max_terms must be a valid integer, got 1.5"),
    ],
)
def test_broken_settings_are_named(tmp_path, name, change, told):
    path = small_params(tmp_path, name, **change)
    with pytest.raises(UserError) as error:
        read_section(path, *KINDS[name])
    assert told in str(error.value) and path in str(error.value)


@pytest.mark.parametrize(
    ("text", "told"),
    [("other: 1", "sigreg_time.seed is required; add it"), ("sigreg_time: 3", "sigreg_time must be a section")],
)
def test_a_section_must_be_there(tmp_path, text, told):
    (tmp_path / "params.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=told):
        read_section(tmp_path / "params.yaml", *KINDS["table6"])
