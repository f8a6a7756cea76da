"""Full fine-tuning of a pretrained backbone with a linear head, on all training images and on a few a class.

Legend: B images, D features, C classes. Accuracies are fractions in [0, 1].
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.core.checkpoints import Checkpoints
from pipeline.core.schedule import lr_factor
from pipeline.core.seeds import derive_seed, generator
from pipeline.data.loader import BatchReader, views_of
from pipeline.data.packed import ImageBatch, PackedSplit
from pipeline.data.photographs import RandomCut
from pipeline.data.views.multicrop import Multicrop
from pipeline.models.backbones import weight_decay_groups
from pipeline.models.features import Reader, embeddings
from pipeline.models.sites import check_site, site_extractor
from pipeline.probing.probes import Task, few_shot_members, stratified_holdout
from pipeline.runtime.bars import DELAY_S, bar

Images = ImageBatch | PackedSplit


class Classifier(nn.Module):
    """A backbone and, on its features at a probe site, a linear head that starts at zero."""

    def __init__(self, backbone: nn.Module, site: str, num_features: int, num_classes: int) -> None:
        """Take over the backbone."""
        super().__init__()
        self.backbone, self.site = backbone, site
        self.head = nn.Linear(num_features, num_classes)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the logits (B, C) of views (B, 3, H, W)."""
        return self.head(site_extractor(self.backbone, self.site)(pixels))


def evaluate(
    backbone: nn.Module,
    train: Images,
    test: Images,
    task: Task,
    reader: Reader,
    checkpoints: Checkpoints,
    *,
    label: str = "",
) -> dict[str, float]:
    """Fine-tune on all training images and on a few a class; every run starts from the given weights.

    The learning rate is chosen on held-out training images, then the run is repeated on all of them and scored once on
    the test images. Few-shot runs see no label outside of their images: their learning rate is fixed, and their images
    are those of the frozen few-shot probe. A few-shot run takes at most `min_steps` steps or as many as the run on all
    images, whichever is more. A run that diverges scores 0.

    Args:
        backbone: a timm model with the weights to start from; left as it is.
        train: training split.
        test: test split.
        task: C classes, the section `probe`, seed of held-out part, draws, batches and views.
        reader: as for `features.embeddings`.
        checkpoints: keeps the accuracy of every finished run, so that an interrupted evaluation goes on.
        label: what is fine-tuned, where several evaluations share the checkpoints.

    Returns:
        linear_top1, linear_lr, linear_holdout_top1 (if there was a choice) and, for each k, linear_top1_<k>shot, its
        _std (if there are several draws) and its _images. The names are those of the frozen probes.
    """
    tuning, seed = task.settings.finetune, task.seed
    rates, num_draws = tuning.learning_rates, tuning.num_draws
    finished: dict[str, float] = checkpoints.load() or {}

    def top1(run: str, members: Tensor, images: Images, scored: Tensor, lr: float) -> float:
        run = f"{label}{run}"
        if run not in finished:
            classifier = finetuned(backbone, train, members, task, reader, lr=lr)
            finished[run] = accuracy(classifier, images, scored, reader)
            checkpoints.save(finished, step=len(finished))
        return finished[run]

    few_shot = {  # drawn first: a class that is too small should show before the long runs
        shots: [few_shot_members(train.labels, shots, seed=seed, draw=draw) for draw in range(num_draws)]
        for shots in task.settings.few_shot.shots
    }
    out: dict[str, float] = {"linear_lr": rates[0]}
    if len(rates) > 1:
        fit, held = stratified_holdout(train.labels, task.settings.holdout_frac, seed=seed)
        tried = {lr: top1(f"held out, {lr}", fit, train, held, lr) for lr in rates}
        best = max(rates, key=tried.__getitem__)
        out = {"linear_lr": best, "linear_holdout_top1": tried[best]}
    everything, tests = torch.arange(len(train.labels)), torch.arange(len(test.labels))
    out["linear_top1"] = top1("all", everything, test, tests, out["linear_lr"])
    for shots, draws in few_shot.items():
        runs = {f"{shots} shots, {draw}": some for draw, some in enumerate(draws)}
        scores = [top1(run, some, test, tests, tuning.few_shot_lr) for run, some in runs.items()]
        spread = torch.tensor(scores, dtype=torch.float64)
        name = f"linear_top1_{shots}shot"
        out |= {name: float(spread.mean()), f"{name}_images": len(draws[0])}
        if num_draws > 1:
            out[f"{name}_std"] = float(spread.std(correction=0))
    return out


def finetuned(
    backbone: nn.Module, images: Images, members: Tensor, task: Task, reader: Reader, *, lr: float
) -> Classifier:
    """Return a copy of the backbone with a head, trained on some images as `probe.finetune` says.

    There are as many whole passes as `min_steps` takes; the warm-up is linear, then follows a cosine to 0.

    Args:
        backbone: a timm model.
        images: a split.
        members: (M,) int64 indices of the images to train on; a batch has at most M.
        task: C classes, the section `probe`, seed of order, views and dropout.
        reader: as for `evaluate`.
        lr: peak learning rate, of backbone and head alike.
    """
    settings, device = task.settings.finetune, reader.device
    classifier = new_classifier(backbone, task, reader)
    groups = weight_decay_groups([classifier.backbone, classifier.head], settings.weight_decay)
    optimizer = torch.optim.AdamW(groups, fused=True)
    augment = Multicrop(
        num_global=1, num_local=0, global_px=reader.size_px, global_scale=settings.crop_scale,
        flip_prob=settings.flip_prob, jitter_prob=0, grey_prob=0, blur_prob=0, solarize_prob=0, mean=reader.mean,
        std=reader.std,
    )  # fmt: skip
    batch_size = min(settings.batch_size, len(members))
    steps_per_epoch = len(members) // batch_size
    epochs = max(settings.epochs, -(-settings.min_steps // steps_per_epoch))
    num_steps = epochs * steps_per_epoch
    num_warmup_steps = int(settings.warmup_frac * num_steps)
    shape: dict[str, Any] = {"num_steps": num_steps, "num_warmup_steps": num_warmup_steps, "final_frac": 0.0}
    read = BatchReader(images, num_workers=reader.num_workers, device=device)
    step = 0
    for epoch in bar(f"fine-tuning at {lr:g}", epochs, unit="epoch", delay_s=DELAY_S, iterable=range(epochs)):
        order = members[torch.randperm(len(members), generator=generator(task.seed, "finetune order", epoch))]
        cut = RandomCut(augment, task.seed, "finetune crops", step)
        for batch in read(order, batch_size, cut=cut, drop_last=True):
            draws = generator(task.seed, "finetune views", step, device=device)
            views, _ = views_of(batch, augment, generator=draws)
            torch.manual_seed(derive_seed(task.seed, "finetune dropout", step))
            with reader.autocast:
                logits = classifier(views[0])
            for group in optimizer.param_groups:
                group["lr"] = lr * lr_factor(step, **shape)
            optimizer.zero_grad()
            functional.cross_entropy(logits.float(), batch.labels).backward()
            optimizer.step()
            step += 1
    return classifier


def new_classifier(backbone: nn.Module, task: Task, reader: Reader) -> Classifier:
    """Return a copy of a backbone with a head that starts at zero, on the reader's device, in training mode."""
    site = task.settings.site
    num_features = check_site(backbone, site, reader.size_px)
    return Classifier(deepcopy(backbone), site, num_features, task.num_classes).to(reader.device).train()


def accuracy(classifier: Classifier, images: Images, members: Tensor, reader: Reader) -> float:
    """Return the top-1 accuracy on the images with these indices, 0 where the logits are not finite."""
    logits = embeddings(classifier, images, reader, members=members)
    correct = (logits.argmax(1) == images.labels[members]) & logits.isfinite().all(1)
    return float(correct.double().mean())
