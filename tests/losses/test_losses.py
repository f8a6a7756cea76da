"""Claims of pipeline.losses:

1. Directions are unit vectors, uniform on the sphere, and a function of (seed, step) alone.
2. Epps-Pulley has its closed forms: point masses, the expectation under N(0, 1).
3. Epps-Pulley and SIGReg equal the plain (N, S, T) form in float64, in value and gradient, for any N, K, S, T, t_max,
   to 1e-5 in float32 and 2e-2 in bfloat16, whatever the blocks and the strides, and under autocast; the working memory
   that a thread keeps between calls changes no bit, with shapes in turn, in several threads and in inference mode;
   memory that nobody initialised does not show, and backward can be repeated.
4. No tensor of N * S elements is ever made by SIGReg.
5. The gradient is bounded whatever the samples (Theorem 4).
6. The LeJEPA loss is (1 - lambda) * pred + lambda * sigreg, with the conventions its docstring states.
7. Every rule on the arguments is an error that says the rule and the value.
"""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from pipeline.losses.harmonics import FactoredBlock
from pipeline.losses.lejepa import directions_for_step, epps_pulley, lejepa_loss, random_directions, sigreg


def plain_epps_pulley(samples, t_max=3.0, num_knots=17):
    """The paper's formula as written, with the (..., N, S, T) tensor."""
    t = torch.linspace(0, t_max, num_knots, dtype=samples.dtype)
    normal = torch.exp(-t.square() / 2)
    angles = samples.unsqueeze(-1) * t
    gap = (angles.cos().mean(-3) - normal).square() + angles.sin().mean(-3).square()
    return 2 * samples.shape[-2] * torch.trapezoid(gap * normal, t, dim=-1)


def relative_error(got, want):
    return ((got.double() - want).norm() / want.norm()).item()


def gaussian(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


# 1. Directions


def test_directions_are_unit_and_uniform():
    directions = random_directions(4, 20_000, generator=torch.Generator().manual_seed(0))
    assert directions.shape == (4, 20_000) and directions.dtype == torch.float32
    torch.testing.assert_close(directions.norm(dim=0), torch.ones(20_000))
    torch.testing.assert_close(directions @ directions.t() / 20_000, torch.eye(4) / 4, atol=0.01, rtol=0)
    torch.testing.assert_close(directions.mean(1), torch.zeros(4), atol=0.02, rtol=0)


def test_directions_depend_on_seed_and_step_only():
    state = torch.get_rng_state()
    drawn = {(seed, step): directions_for_step(seed, step, 3, 4) for seed in range(3) for step in range(3)}
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(10)
    for (seed, step), directions in drawn.items():
        assert torch.equal(directions, directions_for_step(seed, step, 3, 4))
    assert len({tuple(directions.flatten().tolist()) for directions in drawn.values()}) == 9


# 2. Closed forms


def test_epps_pulley_of_a_point_mass():
    t = torch.linspace(0, 3, 17, dtype=torch.float64)
    normal = torch.exp(-t * t / 2)
    for c in (0.0, 0.5, -2.0):
        gap = 1 - 2 * torch.cos(c * t) * normal + normal.square()
        want = 2 * 100 * torch.trapezoid(gap * normal, t)
        got = epps_pulley(torch.full((100, 2), c))
        torch.testing.assert_close(got.double(), want.expand(2), rtol=1e-5, atol=0)
    assert epps_pulley(torch.zeros(100, 1)).item() == pytest.approx(40.2, abs=0.05)


def test_epps_pulley_expectation_under_the_null():
    values = epps_pulley(gaussian(64, 20_000))
    # Integral over [-3, 3] of (1 - exp(-t^2)) exp(-t^2 / 2), for any N.
    root = math.sqrt(2 * math.pi)
    want = root * math.erf(3 / math.sqrt(2)) - root / math.sqrt(3) * math.erf(3 * math.sqrt(3 / 2))
    assert want == pytest.approx(1.0527, abs=2e-3)
    standard_error = values.std().item() / math.sqrt(20_000)
    assert values.mean().item() == pytest.approx(want, abs=4 * standard_error)


# 3. Equal to the plain form

DIRECTIONS = gaussian(5, 7, seed=1)
CASES = [(2, 1, 17, 3.0), (3, 5, 2, 3.0), (7, 3, 3, 1.0), (64, 33, 16, 5.0), (101, 20, 17, 3.0), (50, 9, 18, 0.1)]
CASES += [(500, 4, 256, 12.0), (5000, 3, 17, 3.0), (33, 40, 9, 5.0)]


@pytest.mark.parametrize(("num_samples", "num_slices", "num_knots", "t_max"), CASES)
def test_epps_pulley_equals_the_plain_form(num_samples, num_slices, num_knots, t_max):
    samples = (1.7 * gaussian(2, num_samples, num_slices) + 0.3).requires_grad_()
    weights = gaussian(2, num_slices, seed=1)
    exact = samples.detach().double().requires_grad_()
    want = plain_epps_pulley(exact, t_max, num_knots)
    got = epps_pulley(samples, t_max=t_max, num_knots=num_knots)
    (want * weights).sum().backward()
    (got * weights).sum().backward()
    assert got.shape == (2, num_slices) and got.dtype == torch.float32
    assert relative_error(got, want) < 1e-5
    assert relative_error(samples.grad, exact.grad) < 1e-5


@pytest.mark.parametrize(("elements", "max_rows"), [(1, 5), (40, 64), (1 << 16, 2048)])
def test_sigreg_equals_the_plain_form_for_any_blocks(monkeypatch, elements, max_rows):
    monkeypatch.setattr(FactoredBlock, "max_elements", elements)
    monkeypatch.setattr(FactoredBlock, "max_rows", max_rows)
    z, directions = gaussian(3, 23, 6).requires_grad_(), random_directions(6, 11).requires_grad_()
    exact_z, exact_a = (t.detach().double().requires_grad_() for t in (z, directions))
    want = plain_epps_pulley(exact_z @ exact_a).mean()
    got = sigreg(z, directions)
    (3 * want).backward()
    (3 * got).backward()
    assert got.shape == ()
    assert relative_error(got, want) < 1e-5
    assert relative_error(z.grad, exact_z.grad) < 1e-5
    assert relative_error(directions.grad, exact_a.grad) < 1e-5


def test_kept_working_memory_changes_no_bit():
    calls = [(8, 3, 5, 17), (8, 3, 5, 9), (40, 2, 7, 17), (8, 3, 5, 17)]

    def value_and_gradient(call):
        num_samples, dim, num_slices, num_knots = call
        z = gaussian(num_samples, dim).requires_grad_()
        loss = sigreg(z, gaussian(dim, num_slices, seed=1), num_knots=num_knots)
        loss.backward()
        return [loss.detach(), z.grad]

    def in_a_fresh_thread(call):
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(value_and_gradient, call).result()

    want = [in_a_fresh_thread(call) for call in calls]
    with torch.inference_mode():
        sigreg(gaussian(8, 3), gaussian(3, 5, seed=1))  # what it leaves cannot be written to outside
    for _ in range(2):
        torch.testing.assert_close([value_and_gradient(call) for call in calls], want, rtol=0, atol=0)
    with ThreadPoolExecutor(4) as pool:
        torch.testing.assert_close(list(pool.map(value_and_gradient, calls * 25)), want * 25, rtol=0, atol=0)


@pytest.mark.parametrize("axes", [(1, 0, 2, 3), (0, 2, 1, 3), (3, 1, 2, 0)])
@pytest.mark.parametrize("statistic", [lambda z: sigreg(z, DIRECTIONS), lambda z: epps_pulley(z).square().sum()])
def test_any_strides(axes, statistic):
    z = gaussian(4, 3, 12, 5)
    back = sorted(range(4), key=axes.__getitem__)
    strided = z.permute(axes).contiguous().permute(back).requires_grad_()
    assert not strided.is_contiguous()
    z.requires_grad_()
    torch.testing.assert_close(
        torch.autograd.grad(statistic(strided), strided), torch.autograd.grad(statistic(z), z), rtol=1e-5, atol=1e-6
    )


def test_uninitialised_memory_does_not_show(monkeypatch):
    monkeypatch.setattr(FactoredBlock, "max_elements", 40)
    z, directions = gaussian(2, 23, 6).requires_grad_(), gaussian(6, 11, seed=1).requires_grad_()

    def gradients():
        return torch.autograd.grad(sigreg(z, directions), (z, directions))

    want = gradients()
    torch.use_deterministic_algorithms(True)  # fills it with NaN
    try:
        assert torch.empty(1).isnan()
        with ThreadPoolExecutor(1) as pool:  # a fresh thread has no working memory yet
            got = pool.submit(gradients).result()
    finally:
        torch.use_deterministic_algorithms(False)
    torch.testing.assert_close(got, want, rtol=0, atol=0)


@pytest.mark.parametrize("num_samples", [128, 2048])
def test_low_precision_inputs_are_computed_in_float32(num_samples):
    z, directions = gaussian(num_samples, 64).bfloat16().requires_grad_(), random_directions(64, 128)
    exact = z.detach().double().requires_grad_()
    want = plain_epps_pulley(exact @ directions.double()).mean()
    want.backward()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = sigreg(z, directions)
        samples = z.detach().double() @ directions.double()
        assert relative_error(epps_pulley(samples.float()), plain_epps_pulley(samples)) < 1e-5
    got.backward()
    assert got.dtype == torch.float32 and z.grad.dtype == torch.bfloat16
    assert relative_error(got, want) < 1e-5
    assert relative_error(z.grad, exact.grad) < 2e-2


# 4. Memory


class LargestTensor(TorchDispatchMode):
    """Remember the most elements that any operation returned."""

    def __init__(self):
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(tensor, torch.Tensor):
                self.numel = max(self.numel, tensor.numel())
        return result


def test_sigreg_never_holds_all_samples(monkeypatch):
    monkeypatch.setattr(FactoredBlock, "max_elements", 1024)
    z, directions = gaussian(512, 16).requires_grad_(), random_directions(16, 256)
    with LargestTensor() as largest:
        sigreg(z, directions).backward()
    assert 1024 <= largest.numel < 512 * 256 / 4
    with LargestTensor() as largest:
        plain_epps_pulley(z @ directions).mean().backward()
    assert largest.numel == 512 * 256 * 17


# 5. Gradients


def test_no_outlier_explodes_the_gradient():
    samples = gaussian(32, 8)
    samples[0] = torch.tensor([0.0, 10.0, -100.0, 1e3, -1e4, 1e5, 1e6, -1e7])
    samples.requires_grad_()
    epps_pulley(samples).sum().backward()
    # |dEP/dx| <= 2 * integral of t * |gap| * exp(-t^2/2), and |gap| <= 2.
    assert samples.grad.abs().max() < 8.0
    assert samples.grad.isfinite().all()


# 6. LeJEPA


def test_prediction_loss_by_hand():
    # Two global views at 0 and 2 and a local one at 7 in every coordinate: centre 1, squares 1, 1, 36.
    z = torch.tensor([0.0, 2.0, 7.0])[:, None, None].expand(3, 4, 5)
    result = lejepa_loss(z, random_directions(5, 6), num_global=2, lamb=0.0)
    assert result._fields == ("loss", "pred_loss", "sigreg_loss")
    assert result.pred_loss.item() == pytest.approx(38 / 3)
    assert result.loss.item() == pytest.approx(38 / 3)


@pytest.mark.parametrize("lamb", [0.0, 0.05, 1.0])
def test_lambda_convention_and_sigreg_per_view(lamb):
    z, directions = gaussian(4, 32, 8), random_directions(8, 16)
    loss, pred_loss, sigreg_loss = lejepa_loss(z, directions, num_global=2, lamb=lamb, t_max=4.0, num_knots=9)
    assert loss.item() == pytest.approx((1 - lamb) * pred_loss.item() + lamb * sigreg_loss.item(), rel=1e-6)
    want = torch.stack([sigreg(view, directions, t_max=4.0, num_knots=9) for view in z]).mean()
    torch.testing.assert_close(sigreg_loss, want)
    flattened = sigreg(z.flatten(0, 1), directions, t_max=4.0, num_knots=9)
    assert abs(flattened.item() - sigreg_loss.item()) > 1e-3


def test_no_stop_gradient_through_the_centre():
    z = gaussian(3, 4, 5, dtype=torch.float64).requires_grad_()
    lejepa_loss(z, random_directions(5, 6), num_global=2, lamb=0.0).loss.backward()
    centre = z.detach()[:2].mean(0)
    want = 2 * (z.detach() - centre)
    want[:2] += (centre - z.detach()).sum(0)  # each global view is half of the centre
    torch.testing.assert_close(z.grad, want / z.numel())


# 7. Errors


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda z, a: random_directions(0, 4), "dim and num_slices must be >= 1, got dim=0"),
        (lambda z, a: epps_pulley(z[0, 0]), r"samples must be \(..., N, S\)"),
        (lambda z, a: epps_pulley(z[:, :1]), "N >= 2 samples, got N = 1"),
        (lambda z, a: sigreg(z, a.t()), r"directions must be \(4, S\)"),
        (lambda z, a: lejepa_loss(z[0], a, num_global=1, lamb=0.1), r"projections must be \(V, B, K\)"),
        (lambda z, a: lejepa_loss(z, a, num_global=0, lamb=0.1), r"num_global must be in \[1, 2\].* got 0"),
        (lambda z, a: lejepa_loss(z, a, num_global=2, lamb=1.5), r"lamb must be in \[0, 1\], got 1.5"),
    ],
)
def test_errors_say_the_rule_and_the_value(call, message):
    with pytest.raises(ValueError, match=message):
        call(gaussian(2, 8, 4), random_directions(4, 6))
