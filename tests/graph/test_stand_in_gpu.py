"""Claims about what happens on a GPU, shown without one (tests/stand_in_gpu.py and torch's fake tensors):

1. Views, networks, every objective and the optimiser run on one device, forwards and backwards; after the first steps
   nothing makes the host wait for the device; a run resumes there, with micro-batches and photographs too.
2. Probes, fine-tuning, health, JEPA-SCORE and its baselines, pictures and experiments run there, and what draws no
   random number there comes to the CPU's numbers.
3. Under CUDA's autocast every objective is float32, forwards on fake tensors; bfloat16 trains as float32 does.
4. Planted faults are found: a constant on the CPU, an index on the CPU, a float64 scalar, `.item()` in the step, a
   generator of the other device.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest
import torch
from stand_in_gpu import GPU, StandInGPU, as_if_cuda, stand_in_gpu
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from pipeline.core.distributed.devices import choose_autocast
from pipeline.data.loader import CropBatch, views_of
from pipeline.data.packed import ImageBatch
from pipeline.data.views import colour
from pipeline.data.views.multicrop import Multicrop
from pipeline.density import scores
from pipeline.experiments import sigreg_time
from pipeline.losses import blocks, lejepa, visreg
from pipeline.losses.objective import OBJECTIVES, RunObjective, build_objective
from pipeline.losses.univariate import STATISTICS
from pipeline.models.backbones import initial_backbone
from pipeline.models.features import Reader, embeddings
from pipeline.models.projector import make_projector
from pipeline.pictures.exhibit import see
from pipeline.probing import finetune, health, probes
from pipeline.schema.pretrain import Pretrain
from pipeline.schema.probe import Health, Probe
from pipeline.training.held_out import HeldOutMonitor
from pipeline.training.learner import build_learner
from pipeline.training.loop import Recipe, pretrain

pytestmark = pytest.mark.seconds

CPU = torch.device("cpu")
VIEWS = Multicrop(num_local=1, global_px=16, local_px=8)
VIT = {"img_size": 16, "patch_size": 8, "dynamic_img_size": True}
SLICED = {"lejepa": {"num_slices": 4}, "visreg": {"num_slices": 4}, "byol": {"hidden_dim": 8}}
BATCH, STEPS, PROJ_DIM = 8, 4, 4


class Tiny(nn.Sequential):
    """A convolutional network of a layer, with BatchNorm."""

    num_features = 6

    def __init__(self) -> None:
        super().__init__(nn.Conv2d(3, 6, 3, 2), nn.BatchNorm2d(6), nn.GELU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())


class Kept:
    """Checkpoints in memory, read back on the CPU as those on the disk."""

    def __init__(self, state: dict | None = None) -> None:
        self.state = state

    def load(self) -> dict | None:
        return self.state

    def save(self, state: dict, step: int) -> None:
        self.state = torch.utils._pytree.tree_map_only(Tensor, lambda tensor: tensor.cpu().clone(), state)


def images(num: int = STEPS * BATCH, channels: int = 3) -> ImageBatch:
    draws = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (num, channels, 20, 20), dtype=torch.uint8, generator=draws)
    return ImageBatch(pixels, torch.arange(num) % 4)


def section(**changes) -> Pretrain:
    plain = {
        "epochs": 1,
        "batch_size": BATCH,
        "channels_last": False,
        "optimizer": {"lr": 1e-3, "weight_decay": 0.05},
        "schedule": {"warmup_epochs": 0},
        "projector": {"hidden_dims": [8], "proj_dim": PROJ_DIM},
    }
    return Pretrain.model_validate(plain | changes)


def objective_of(name: str) -> RunObjective:
    return build_objective(name, SLICED.get(name, {}), lamb=0.1, num_global=2, seed=0)


def train(
    objective: RunObjective, settings: Pretrain, checkpoints: Kept | None = None, backbone: nn.Module | None = None
):
    """Train on the stand-in; return the last epoch and the waits of the last step but one, to the next loss."""
    torch.manual_seed(0)
    backbone = backbone or Tiny()
    learner = build_learner(
        backbone, backbone.num_features, settings, GPU, objective=objective.objective, num_classes=4
    )
    marks = []

    def marked(*args, **kwargs) -> dict[str, Tensor]:
        marks.append(len(StandInGPU.waits))
        return objective(*args, **kwargs)

    how = {"device": GPU, "autocast": choose_autocast("float32", GPU), "checkpoints": checkpoints or Kept()}
    epochs = list(pretrain(learner, images(), settings, Recipe(VIEWS, marked, 0), **how))
    return epochs, StandInGPU.waits[marks[-2] : marks[-1]]


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_trains_on_the_device_and_never_waits(name):
    with stand_in_gpu():
        epochs, waits = train(objective_of(name), section())
    assert all(torch.tensor(list(epochs[0].losses.values())).isfinite())
    assert not waits, Counter(waits)


def test_a_run_resumes_on_the_device_in_micro_batches():
    settings = section(layout={"micro_batch_size": 3}, swa={"enabled": True}, predictor={"enabled": True})
    kept = Kept()
    with stand_in_gpu():
        train(objective_of("lejepa"), settings, kept)
        epochs, waits = train(objective_of("lejepa"), settings, Kept({**kept.state, "history": []}))
    assert len(epochs) == 1 and not waits, Counter(waits)


def test_views_of_photographs_are_finished_on_the_device():
    crops = [images(6).pixels.view(2, 3, 3, 20, 20)[..., :size, :size] for size in (16, 8)]
    with stand_in_gpu():
        batch = CropBatch(*(crop.to(GPU) for crop in crops), torch.zeros(3).to(GPU))
        StandInGPU.waits.clear()
        large, small = views_of(batch, VIEWS, generator=torch.Generator("cuda").manual_seed(0))
        first = len(StandInGPU.waits)
        views_of(batch, VIEWS, generator=torch.Generator("cuda").manual_seed(1))
    assert large.is_cuda and small.is_cuda and len(StandInGPU.waits) == first


def test_operations_of_a_gpu_alone_give_the_cpus_numbers():
    """Colours are blurred and small crops resized in another way there."""
    draws = torch.Generator().manual_seed(0)
    pictures, sigma = torch.rand(4, 3, 16, 16, generator=draws), torch.tensor([0.3, 0.8, 1.0, 2.0])
    chosen = torch.tensor([True, False, True, False])
    want = colour.gaussian_blur_some(pictures, sigma, chosen)
    with stand_in_gpu():
        found = colour.gaussian_blur_some(pictures.to(GPU), sigma.to(GPU), chosen.to(GPU)).cpu()
    torch.testing.assert_close(found, want)


@pytest.mark.parametrize("name", [name for name in STATISTICS if name != "epps_pulley"])
def test_every_statistic_and_its_gradient_are_the_cpus(name):
    objective = build_objective("lejepa", {"statistic": name, "num_slices": 4}, lamb=0.5, num_global=2, seed=0)
    z = torch.randn(2, BATCH, PROJ_DIM, generator=torch.Generator().manual_seed(0))
    value_and_gradient(objective, z)


@pytest.mark.parametrize("name", [name for name in OBJECTIVES if name not in ("byol", "supervised")])
def test_every_objective_and_its_gradient_are_the_cpus(name):
    value_and_gradient(objective_of(name), torch.randn(3, BATCH, PROJ_DIM, generator=torch.Generator().manual_seed(0)))


def value_and_gradient(objective: RunObjective, z: Tensor) -> None:
    want = z.clone().requires_grad_()
    loss = objective(want, 0)["loss"]
    loss.backward()
    with stand_in_gpu():
        leaf = z.to(GPU).requires_grad_()
        found = objective(leaf, 0)["loss"]
        found.backward()
        torch.testing.assert_close(found.cpu(), loss)
        torch.testing.assert_close(leaf.grad.cpu(), want.grad)


# 2. Stages after pretraining


def reader(device: torch.device) -> Reader:
    how = {"num_workers": 0, "device": device, "autocast": choose_autocast("float32", device)}
    return Reader(16, [0.5] * 3, [0.25] * 3, 16, **how)


TASK = probes.Task(
    4,
    Probe.model_validate(
        {
            "linear": {"epochs": 2, "batch_size": 16},
            "few_shot": {"shots": [1, 4], "num_draws": 2},
            "finetune": {"epochs": 1, "min_steps": 1, "batch_size": 16},
        }
    ),
    seed=0,
)


def probed(device: torch.device, backbone: nn.Module, site: str) -> dict[str, float]:
    splits = [images(40), images(24)]
    features = [
        probes.Split(embeddings(backbone, split, reader(device), site=site).to(device), split.labels.to(device))
        for split in splits
    ]
    return probes.evaluate(*features, TASK)


@pytest.mark.parametrize("site", ["pooled", "patch_mean"])
def test_probes_on_the_device_come_to_the_cpus_numbers(site):
    vit = initial_backbone("test_vit", VIT, seed=0)
    want = probed(CPU, vit, site)
    with stand_in_gpu():
        found = probed(GPU, initial_backbone("test_vit", VIT, seed=0), site)
    assert found == want


def test_fine_tuning_and_health_run_on_the_device():
    backbone = Tiny()
    trained = health.Trained(make_projector(6, hidden_dims=[8], proj_dim=PROJ_DIM), objective_of("lejepa"), 16, VIEWS)
    settings = Health(num_images=32, num_slices=4, lidar_images=16, lidar_views=2)
    held_out = HeldOutMonitor(
        images(), torch.eye(PROJ_DIM), {"size_px": 16, "mean": (0.5,) * 3, "std": (0.2,) * 3}, 16, GPU,
        torch.autocast("cpu", enabled=False),
    )  # fmt: skip
    with stand_in_gpu():
        tuned = finetune.evaluate(backbone, images(40), images(24), TASK, reader(GPU), Kept())
        told = health.report(backbone, images(40), settings, views=VIEWS, reader=reader(GPU), trained=trained)
        watched = held_out(backbone, trained.projector)
    assert 0 <= tuned["linear_top1"] <= 1 and told["criteria"]["heldout_loss"] > 0 and watched["embedding_norm"] > 0


def scored(device: torch.device, backbone: Callable[[int], nn.Module]) -> dict[str, Tensor]:
    home, chosen = images(40), torch.arange(3)
    view = {"size_px": 16, "mean": [0.5] * 3, "std": [0.25] * 3}
    reading = scores.Reading(load_px=64, memory_gb=1, num_workers=0, batch_size=16, device=device)
    found = scores.jepa_scores(backbone(0), backbone(1), home, chosen, view, reading, 2)
    found |= scores.embedding_scores(backbone(0), home, chosen, home, view, reading, 3)
    return found | scores.pixel_scores(home, chosen, home, 16, reading, 3)


def seeded(seed: int) -> nn.Module:
    return initial_backbone("test_vit", VIT | {"drop_path_rate": 0.0}, seed=seed)


def test_scores_on_the_device_are_the_cpus():
    want = scored(CPU, seeded)
    with stand_in_gpu():
        found = scored(GPU, seeded)
    for name, values in want.items():
        torch.testing.assert_close(found[name], values)


def test_pictures_and_times_are_made_on_the_device():
    vit = {"img_size": 32, "patch_size": 8}
    views = torch.randn(2, 3, 32, 32)
    size = sigreg_time.Size(8, 4, 3)
    settings = sigreg_time.Settings(proj_dim=PROJ_DIM, num_repetitions=2, max_terms=1000, seed=0)
    with stand_in_gpu():
        seen = see(initial_backbone("test_vit", vit, seed=0).to(GPU).eval(), views.to(GPU))
        times = sigreg_time.measure([size], settings, GPU)
    assert seen.attention.isfinite().all() and len(times) == 2


# 3. Autocast


def parts_under_autocast(objective: RunObjective) -> dict[str, Tensor]:
    """Return the losses of a step on fake tensors, whose device is CUDA for autocast as well."""
    vit, fakes = initial_backbone("test_vit", VIT, seed=0), FakeTensorMode(allow_non_fake_inputs=True)
    learner = build_learner(vit, vit.num_features, section(), CPU, objective=objective.objective, num_classes=4)
    with fakes, as_if_cuda():
        for module in (learner.backbone, learner.projector, learner.predictor, learner.average):
            for part in module.modules() if module is not None else ():
                for held in (part._parameters, part._buffers):
                    held |= {n: fakes.from_tensor(t).detach().to(GPU) for n, t in held.items() if t is not None}
        views = [torch.empty(2, BATCH, 3, 16, 16, device=GPU), torch.empty(1, BATCH, 3, 8, 8, device=GPU)]
        with torch.autocast("cuda", dtype=torch.bfloat16):
            assert learner.projector(learner.backbone(views[1][0])).dtype == torch.bfloat16
            projections, predictions = learner.project(views)
            targets = learner.targets(views[0])
        seen = {"predictions": predictions, "targets": targets, "labels": torch.zeros(BATCH, dtype=int, device=GPU)}
        return objective(projections, 0, **seen)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_losses_are_float32_under_autocast(name):
    float32(parts_under_autocast(objective_of(name)))


def float32(parts: dict[str, Tensor]) -> None:
    assert {part.dtype for part in parts.values()} == {torch.float32}, {n: p.dtype for n, p in parts.items()}
    assert {part.device for part in parts.values()} == {GPU}


def test_bfloat16_trains_as_float32_up_to_what_a_seed_changes():
    def last_loss(precision: str, seed: int) -> float:
        torch.manual_seed(seed)
        backbone, settings, objective = Tiny(), section(epochs=6), objective_of("lejepa")
        learner = build_learner(backbone, backbone.num_features, settings, CPU, objective=objective.objective)
        how = {"device": CPU, "autocast": choose_autocast(precision, CPU), "checkpoints": Kept()}
        return list(pretrain(learner, images(), settings, Recipe(VIEWS, objective, seed), **how))[-1].loss

    exact = torch.tensor([last_loss("float32", seed) for seed in range(3)])
    assert abs(last_loss("bfloat16", 0) - exact[0]) < exact.std()


# 4. Planted faults


def test_a_constant_on_the_cpu_is_found(monkeypatch):
    plain = visreg._quantiles
    with stand_in_gpu(), monkeypatch.context() as planted:
        planted.setattr(visreg, "_quantiles", lambda num, device, dtype: plain(num, CPU, dtype))
        with pytest.raises(RuntimeError, match=r"same device.*cuda:0 and cpu"):
            objective_of("visreg")(torch.randn(2, BATCH, PROJ_DIM, device=GPU), 0)


def test_an_index_on_the_cpu_is_found():
    with stand_in_gpu(), pytest.raises(RuntimeError, match=r"same device.*cuda:0 and cpu"):
        split = probes.Split(torch.randn(8, 3, device=GPU), torch.zeros(8, dtype=torch.int64))
        probes.knn_probe(split, split, num_classes=2, k=3, temperature=0.1)


def test_a_float64_scalar_is_found(monkeypatch):
    plain = blocks.SlicedMean.apply
    monkeypatch.setattr(
        lejepa.SlicedMean, "apply", lambda *args: plain(*args) * torch.ones((), dtype=torch.float64, device=GPU)
    )
    with pytest.raises(AssertionError, match="float64"):
        float32(parts_under_autocast(objective_of("lejepa")))


def test_item_in_the_step_is_found():
    class Asking(RunObjective):
        def __call__(self, *args, **kwargs) -> dict[str, Tensor]:
            found = super().__call__(*args, **kwargs)
            found["loss"].item()
            return found

    plain = objective_of("vicreg")
    with stand_in_gpu():
        _, waits = train(Asking(plain.objective, 0.1, 2, 0), section())
    assert len(waits) == 1 and "_local_scalar_dense" in waits[0]


def test_a_generator_of_the_other_device_is_found():
    with stand_in_gpu(), pytest.raises(RuntimeError, match="'cuda' device type for generator but found 'cpu'"):
        VIEWS(images(2).pixels.to(GPU), generator=torch.Generator().manual_seed(0))
