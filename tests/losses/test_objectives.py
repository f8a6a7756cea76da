"""Claims of the objectives beside LeJEPA:

1. Value and gradient equal the paper's formula, written plainly in float64, to 1e-5 in float32, for two views and for
   several of which some are local; under autocast too. Kernel discrepancies have their expectation on normal samples.
2. Collapsed projections have finite values and gradients.
3. Settings out of range, unknown names and classes that are no objective are refused.
"""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
import scipy.stats
import torch

from pipeline.core.seeds import generator
from pipeline.losses.barlow_twins import BarlowTwins
from pipeline.losses.byol import BYOL
from pipeline.losses.kerjepa import KSDIMQ, MMD
from pipeline.losses.lejepa import directions_for_step
from pipeline.losses.multivariate import ksd_imq, mmd
from pipeline.losses.objective import OBJECTIVES, RunObjective, objective_class
from pipeline.losses.projected import Projected
from pipeline.losses.simclr import SimCLR
from pipeline.losses.supervised import Supervised
from pipeline.losses.vicreg import VICReg
from pipeline.losses.visreg import VISReg
from pipeline.losses.weak_sigreg import WeakSIGReg

SEED, STEP, LAMB, NUM_GLOBAL = 3, 5, 0.2, 2


def gaussian(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def seen(z, **more) -> Projected:
    return Projected(z, NUM_GLOBAL, LAMB, SEED, STEP, **more)


def losses_of(objective, step: Projected) -> dict[str, torch.Tensor]:
    run = RunObjective(objective, step.lamb, step.num_global, step.seed)
    return run(step.projections, step.step, predictions=step.predictions, targets=step.targets, labels=step.labels)


def pairs(num_views):
    return [(a, b) for a, b in combinations(range(num_views), 2) if a < NUM_GLOBAL]


def prediction(z):
    return sum((view - z[:NUM_GLOBAL].mean(0)).square().mean() for view in z) / len(z)


def regularised(regulariser):
    def loss(z, **_):
        return (1 - LAMB) * prediction(z) + LAMB * sum(regulariser(view) for view in z) / len(z)

    return loss


def visreg(view):
    mean, std = view.mean(0), view.std(0)
    slices = ((view - mean) / std.detach()) @ directions_for_step(SEED, STEP, view.shape[1], 9, dtype=torch.float64)
    quantiles = torch.from_numpy(scipy.stats.norm.ppf(np.arange(1, len(view) + 1) / (len(view) + 1)))
    shape = sum((column.sort().values - quantiles).square().mean() for column in slices.t()) / 9
    return shape + 2 * (1 - std).square().mean() + 3 * mean.square().mean()


def weak(view):
    dim = view.shape[1]
    sketch = torch.randn(dim, 3, generator=generator(SEED, "sketch", STEP)).double() / math.sqrt(dim)
    return ((view @ sketch).t().cov() - torch.eye(3)).square().sum().sqrt()


def mean_discrepancy(view):
    num, dim = view.shape
    beta2 = 1 / dim
    pairs_ = sum(torch.exp(-beta2 / 2 * (x - y).square().sum()) for x in view for y in view) / num**2
    cross = sum(torch.exp(-beta2 / (2 + 2 * beta2) * x.square().sum()) for x in view) / num
    return num * (pairs_ - 2 * (1 + beta2) ** (-dim / 2) * cross + (1 + 2 * beta2) ** (-dim / 2))


def stein(view):
    """The Stein kernel of the score -x, its derivatives by automatic differentiation."""
    num, dim = view.shape
    x, y = view.unsqueeze(1).expand(num, num, dim), view.unsqueeze(0).expand(num, num, dim)
    kernel = (1 + (x - y).square().sum(-1) / dim) ** -0.5
    by_x, by_y = torch.autograd.grad(kernel.sum(), (x, y), create_graph=True)
    mixed = [torch.autograd.grad(by_x[..., j].sum(), y, create_graph=True)[0][..., j] for j in range(dim)]
    return ((x * y).sum(-1) * kernel - (x * by_y).sum(-1) - (y * by_x).sum(-1) + sum(mixed)).sum() / num


def vicreg(z, **_):
    total = 25 * sum((z[a] - z[b]).square().mean() for a, b in pairs(len(z))) / len(pairs(len(z)))
    for view in z:
        cov = view.t().cov()
        hinge = sum(torch.clamp(1 - (cov[j, j] + 1e-4).sqrt(), min=0) for j in range(len(cov))) / len(cov)
        off = sum(cov[i, j] ** 2 for i in range(len(cov)) for j in range(len(cov)) if i != j) / len(cov)
        total = total + 2 * (25 * hinge + off) / len(z)
    return total


def barlow(z, **_):
    total = 0
    for a, b in pairs(len(z)):
        first, second = z[a] - z[a].mean(0), z[b] - z[b].mean(0)
        for i in range(z.shape[2]):
            for j in range(z.shape[2]):
                c = (first[:, i] * second[:, j]).sum() / (first[:, i].norm() * second[:, j].norm())
                total = total + ((1 - c) ** 2 if i == j else 5e-3 * c**2)
    return total / len(pairs(len(z)))


def nt_xent(z, **_):
    total = 0
    for a, b in pairs(len(z)):
        both = torch.cat([z[a], z[b]])
        num = len(both)
        for i in range(num):
            similar = [torch.exp(torch.cosine_similarity(both[i], both[k], dim=0) / 0.5) for k in range(num)]
            others = sum(value for k, value in enumerate(similar) if k != i)
            total = total - torch.log(similar[(i + num // 2) % num] / others) / num
    return total / len(pairs(len(z)))


def byol(z, predictions, targets, **_):
    found = [
        (predictions[v] / predictions[v].norm(dim=1, keepdim=True) - t / t.norm(dim=1, keepdim=True)).square().sum(1)
        for g, t in enumerate(targets)
        for v in range(len(z))
        if v != g
    ]
    return 2 * torch.stack(found).mean()


def supervised(z, predictions, labels, **_):
    logs = torch.stack([view.log_softmax(1)[range(len(labels)), labels] for view in predictions])
    return -logs.mean()


FORMULAS = {
    "visreg": (VISReg(num_slices=9, scale=2.0, centre=3.0), regularised(visreg)),
    "weak_sigreg": (WeakSIGReg(sketch_dim=3), regularised(weak)),
    "mmd": (MMD(), regularised(mean_discrepancy)),
    "ksd_imq": (KSDIMQ(), regularised(stein)),
    "vicreg": (VICReg(), vicreg),
    "barlow_twins": (BarlowTwins(), barlow),
    "simclr": (SimCLR(), nt_xent),
    "byol": (BYOL(), byol),
    "supervised": (Supervised(), supervised),
}


def test_every_objective_has_its_formula_here():
    assert FORMULAS.keys() == OBJECTIVES.keys() - {"lejepa"}
    assert all(type(objective) is OBJECTIVES[name] for name, (objective, _) in FORMULAS.items())


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("num_views", [2, 4])
@pytest.mark.parametrize("name", FORMULAS)
def test_value_and_gradient_are_the_papers(name, num_views, autocast):
    objective, formula = FORMULAS[name]
    base = 0.7 * gaussian(1, 12, 5) + 0.5 * gaussian(num_views, 12, 5, seed=1) + 0.2
    exact = base.clone().requires_grad_()
    rounded = base.float().requires_grad_()
    targets, labels = gaussian(NUM_GLOBAL, 12, 5, seed=2), torch.arange(12) % 5
    want = formula(exact, predictions=2 * exact, targets=targets, labels=labels)
    want.backward()
    head = {"predictions": 2 * rounded} if objective.needs_head else {}
    teacher = {"targets": targets.float()} if objective.target_decay(0) is not None else {}
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        got = losses_of(objective, seen(rounded, labels=labels, **head, **teacher))
    got["loss"].backward()
    assert next(iter(got)) == "loss" and all(part.shape == () for part in got.values())
    assert got["loss"].item() == pytest.approx(want.item(), rel=1e-5)
    assert (rounded.grad.double() - exact.grad).norm() < 1e-5 * exact.grad.norm()


def test_kernel_discrepancies_of_normal_samples():
    """Their expectation over N(0, 1) samples is the mean of the kernel at equal points less that at two independent."""
    samples = gaussian(2000, 30, 1)
    mean, error = mmd(samples).mean().item(), mmd(samples).std().item() / math.sqrt(2000)
    assert mean == pytest.approx(1 - 1 / math.sqrt(3), abs=4 * error)  # E exp(-(x - y)^2 / 2) = 1 / sqrt(3)
    mean, error = ksd_imq(samples).mean().item(), ksd_imq(samples).std().item() / math.sqrt(2000)
    assert mean == pytest.approx(1 + 1, abs=4 * error)  # E x^2 k(x, x) - 2 k'(0) = 1 + 1; off the diagonal 0


# 2. Collapse


@pytest.mark.parametrize("name", FORMULAS)
def test_collapsed_projections_have_finite_gradients(name):
    objective, _ = FORMULAS[name]
    z = torch.full((2, 8, 5), 0.5, requires_grad=True)
    more = {"predictions": z} if objective.needs_head else {}
    got = losses_of(objective, seen(z, labels=torch.zeros(8, dtype=torch.int64), targets=z.detach(), **more))
    got["loss"].backward()
    assert got["loss"].isfinite() and z.grad.isfinite().all()


# 3. Refusals


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SimCLR(temperature=0), "temperature must be > 0, got 0"),
        (lambda: VISReg(scale=-1), "scale must be >= 0, got -1"),
        (lambda: VICReg(covariance=-1), "covariance must be >= 0, got -1"),
        (lambda: KSDIMQ(exponent=1), r"exponent must be in \(0, 1\), got 1"),
        (lambda: BYOL(decay=1.5), r"decay must be in \[0, 1\], got 1.5"),
        (lambda: Supervised(label_smoothing=1), r"label_smoothing must be in \[0, 1\), got 1"),
        (
            lambda: objective_class("simclear"),
            "unknown objective 'simclear'; did you mean 'simclr'.* known: .*lejepa, .*objectives.<file>.<Class>",
        ),
        (
            lambda: objective_class("objectives.no_such.Thing"),
            "objectives.no_such does not import .ModuleNotFoundError",
        ),
    ],
)
def test_what_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
