"""Claims about pipeline.density.jepa_score and pipeline.density.jacobian:

1. Exact scores equal a plain loop (one backward pass an output of a sample, then an SVD) to 1e-4 relative, in any order
   and chunk.
2. An encoder without forward mode is told.
3. A linear map has the log-sum of its singular values; below eps each counts log eps, in forward and reverse mode.
4. Encoder, its mode, gradients and precision stay as they were.
5. Dead outputs are skipped only where their rows are zero: an output that happens to be 0 still counts.
6. The sketch equals the exact score once it covers the living outputs, and depends on its seed and on nothing else.
7. Training mode and interacting samples are refused by name.
"""

from __future__ import annotations

import copy
import math

import pytest
import timm
import torch
from torch import nn

from benchmarks import density as benchmark
from pipeline.core.seeds import generator
from pipeline.density.jacobian import jacobians
from pipeline.density.jepa_score import EPS, jepa_score, jepa_score_sketch
from pipeline.runtime.errors import UserError

ENCODERS = ["test_resnet", "test_vit", "test_convnext", pytest.param("test_byobnet", marks=pytest.mark.slow)]


def images(count=3, size=32, seed=0):
    return torch.randn(count, 3, size, size, generator=generator(seed, "images"))


def encoder_named(name):
    """A timm model with normalisation layers that do something, as after training."""
    torch.manual_seed(0)
    arguments = {"img_size": 32} if name == "test_vit" else {}
    model = timm.create_model(name, num_classes=0, **arguments)
    for module_name, parameter in model.named_parameters():
        if parameter.ndim == 1 and "gain" not in module_name:
            parameter.data += 0.2 * torch.randn_like(parameter)
    for buffer_name, buffer in model.named_buffers():
        if "running" in buffer_name:
            buffer += 0.3 * torch.rand_like(buffer)
    return model.eval()


@pytest.fixture(scope="module", params=ENCODERS)
def encoder(request):
    return encoder_named(request.param)


def plain_jacobian(encoder, image):
    image = image[None].clone().requires_grad_()
    embedding = encoder(image)[0]
    return torch.stack([torch.autograd.grad(value, image, retain_graph=True)[0].flatten() for value in embedding])


def plain_scores(encoder, inputs):
    values = [torch.linalg.svdvals(plain_jacobian(encoder, image).double()) for image in inputs]
    return torch.stack([value.clamp_min(EPS).log().sum() for value in values])


class Linear(nn.Module):
    """x -> x A^T with known singular values."""

    def __init__(self, values, size, dtype=torch.float32):
        super().__init__()
        draws = torch.Generator().manual_seed(0)
        left, right = (
            torch.linalg.qr(torch.randn(n, len(values), generator=draws, dtype=torch.float64)).Q
            for n in (len(values), size)
        )
        self.matrix = nn.Parameter((left * torch.tensor(values, dtype=torch.float64) @ right.T).to(dtype))

    def forward(self, inputs):
        return inputs.flatten(1) @ self.matrix.T


def test_equals_the_plain_loop_in_any_order_and_chunk(encoder):
    inputs = images(3)
    whole = jepa_score(encoder, inputs)
    torch.testing.assert_close(whole, plain_scores(encoder, inputs), rtol=1e-4, atol=0)
    torch.testing.assert_close(jepa_score(encoder, inputs.flip(0), chunk=50).flip(0), whole, rtol=5e-5, atol=0)
    torch.testing.assert_close(benchmark.jacrev(encoder, inputs[:1]), whole[:1], rtol=1e-4, atol=0)


class Distances(nn.Module):
    """An encoder with an operation that has no forward mode."""

    def forward(self, inputs):
        centres = torch.arange(24, dtype=inputs.dtype).reshape(8, 3)
        return torch.cdist(inputs, centres)


def test_without_forward_mode_it_says_so():
    encoder, inputs = Distances().eval(), torch.rand(4, 3)
    with pytest.warns(UserWarning, match="reverse mode instead of forward mode.*_cdist_forward"):
        scores = jepa_score(encoder, inputs)
    torch.testing.assert_close(scores, jepa_score(encoder, inputs, mode="reverse"))
    with pytest.raises(UserError, match=r"_cdist_forward.*use mode 'reverse'"):
        jepa_score(encoder, inputs, mode="forward")


@pytest.mark.parametrize("mode", ["forward", "reverse"])
@pytest.mark.parametrize(("dtype", "largest"), [(torch.float32, 5.0), (torch.float64, 1e6)])
@pytest.mark.parametrize("eps", [EPS, 0.6])
def test_a_linear_map_has_its_singular_values_and_eps_below(mode, dtype, largest, eps):
    encoder = Linear([largest, 0.5, 0, 0, 1e-12], 12, dtype).eval()
    scores = jepa_score(encoder, torch.zeros(2, 3, 2, 2, dtype=dtype), mode=mode, eps=eps)
    wanted = math.log(largest) + math.log(max(0.5, eps)) + 3 * math.log(eps)
    assert scores.dtype == torch.float64
    torch.testing.assert_close(scores, torch.full((2,), wanted, dtype=torch.float64), rtol=1e-6, atol=0)


def test_nothing_about_the_encoder_changes():
    encoder = encoder_named("test_resnet")
    before, inputs = copy.deepcopy(encoder.state_dict()), images(2)
    wanted = jepa_score(encoder, inputs)
    for name, value in encoder.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert all(parameter.requires_grad and parameter.grad is None for parameter in encoder.parameters())
    assert encoder(inputs).requires_grad and not wanted.requires_grad
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(jepa_score(encoder, inputs), wanted)
    assert torch.equal(jepa_score(encoder, inputs.clone().requires_grad_()), wanted)


def test_dead_outputs_are_skipped():
    encoder, inputs = encoder_named("test_resnet"), images(4)
    (block,) = jacobians(encoder, inputs)
    whole = torch.stack([plain_jacobian(encoder, image) for image in inputs])
    living = (whole != 0).any(2)
    assert 0.2 < living.double().mean() < 0.8
    assert torch.equal(block.num_living, living.sum(1))
    assert block.rows.shape[1] == living.sum(1).max()
    for sample in range(4):
        torch.testing.assert_close(block.rows[sample, : living[sample].sum()], whole[sample, living[sample]])


def test_an_output_that_happens_to_be_zero_counts():
    encoder = Linear([3.0, 1.0, 0.25], 12).eval()
    scores = jepa_score(encoder, torch.zeros(2, 12))
    torch.testing.assert_close(scores, torch.full((2,), math.log(0.75), dtype=torch.float64), rtol=0, atol=1e-5)


def test_a_sketch_of_everything_is_exact(encoder):
    inputs = images(3)
    with torch.no_grad():
        dim = encoder(inputs).shape[1]
    sketch = jepa_score_sketch(encoder, inputs, num_sketches=dim, seed=5)
    torch.testing.assert_close(sketch, jepa_score(encoder, inputs), rtol=1e-4, atol=0)
    first, again, other = (jepa_score_sketch(encoder, inputs, num_sketches=4, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.allclose(first, other, rtol=1e-6)


def test_a_sketch_scales_the_volume_along_its_directions():
    encoder = nn.Sequential(nn.Linear(6, 5, bias=False), nn.Threshold(-100.0, 0.0)).eval()
    with torch.no_grad():
        encoder[0].weight[3] = 0  # dead by its weights, and zero for every input
    inputs = torch.randn(4, 6, generator=generator(0, "points"))
    directions = torch.randn(5, 2, generator=generator(2, "output directions"), dtype=torch.float64)
    directions[3] = 0
    products = torch.linalg.qr(directions).Q.T @ encoder[0].weight.detach().double()
    wanted = 4 / 2 * torch.linalg.svdvals(products).log().sum() + math.log(EPS)
    scores = jepa_score_sketch(encoder, inputs, num_sketches=2, seed=2)
    torch.testing.assert_close(scores, wanted.expand(4), rtol=1e-6, atol=0)


class Mixing(nn.Module):
    """Normalises over the batch even in evaluation mode."""

    def forward(self, inputs):
        return inputs.flatten(1)[:, :4] - inputs.flatten(1)[:, :4].mean(0)


@pytest.mark.parametrize("mode", ["forward", "reverse"])
def test_interacting_samples_are_refused(mode):
    with pytest.raises(UserError, match="samples one by one"):
        jepa_score(Mixing().eval(), images(3, 2), mode=mode)


def test_training_mode_is_refused_by_name():
    encoder = nn.Sequential(nn.Flatten(), nn.Sequential(nn.BatchNorm1d(12))).eval()
    encoder[1][0].train()
    with pytest.raises(UserError, match=r"evaluation mode, but 1.0 trains; call encoder.eval\(\)"):
        jepa_score(encoder, torch.zeros(2, 12))
