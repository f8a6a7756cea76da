"""Backbones from timm, and the check that a backbone fits the views before hours are spent.

Legend: B images, D embedding (backbone output), K projection (projector output).
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from pipeline.core.seeds import derive_seed
from pipeline.runtime.errors import UserError

TIMM_VERSION = version("timm")


class BackboneInfo(NamedTuple):
    """What the conformance check found."""

    num_params: int
    embed_dim: int
    has_batchnorm: bool


class Published(NamedTuple):
    """What timm knows about the published weights of a model: where they are and how pixels must be prepared."""

    address: str
    file: str
    licence: str
    size_px: int
    mean: list[float]
    std: list[float]


class BackboneError(UserError):
    """A backbone that cannot be trained with these views; the message says what to change."""


def _timm() -> ModuleType:
    """Import timm, which takes seconds: a stage says what it computes with before."""
    import timm

    return timm


def known_backbones() -> list[str]:
    """Every architecture name of the installed timm."""
    return _timm().list_models()


def known_weights(architecture: str) -> list[str]:
    """Every name with a tag under which timm has weights of the architecture."""
    return _timm().list_pretrained(architecture)


def is_known(name: str) -> bool:
    """Whether timm has the architecture; a pretrained tag after the first dot must be known as well."""
    architecture = name.partition(".")[0]
    return _timm().is_model(architecture) and (name == architecture or name in _timm().list_pretrained(architecture))


def backbone_arguments(
    name: str,
    *,
    img_size: int,
    patch_size: int | None = None,
    drop_path_rate: float = 0.0,
    small_stem: bool = False,
    kwargs: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the arguments with which plain `timm.create_model(name, num_classes=0, ...)` builds the backbone.

    One is not timm's: `small_stem`, which `create_backbone` answers.

    Transformers learn `img_size` and `dynamic_img_size` so that one set of weights takes global and local views;
    convolutional networks have no such arguments and get none.

    Args:
        name: timm model name.
        img_size: side of a global view, px.
        patch_size: px; None keeps the architecture's own.
        drop_path_rate: stochastic depth in [0, 1]; 0 is not passed on.
        small_stem: of a ResNet, for images of about 32 px; False is not passed on.
        kwargs: further arguments, passed on as they are.

    Raises:
        BackboneError: if the architecture refuses an argument that was asked for explicitly, or its value.
    """
    asked = dict(kwargs or {})
    if patch_size is not None:
        asked["patch_size"] = patch_size
    if drop_path_rate:
        asked["drop_path_rate"] = drop_path_rate
    if small_stem:
        asked["small_stem"] = True
    arguments = {"img_size": img_size, "dynamic_img_size": True, **asked}
    while True:
        try:
            with torch.device("meta"):
                create_backbone(name, arguments)
            return arguments
        except Exception as error:  # constructors refuse values in many ways
            # Python names one argument; timm's own check lists them: "argument(s): ['a', 'b']".
            refused = re.search(r"unexpected keyword argument(?:\(s\): \[)? ?'(\w+)'", str(error))
            if not refused or refused[1] not in arguments:
                raise BackboneError(
                    f"backbone {name!r} cannot be built with {arguments}: {type(error).__name__}: {error}; "
                    "change pretrain.backbone or pretrain.views.global_px"
                ) from error
            if refused[1] in asked:
                raise BackboneError(
                    f"backbone {name!r} takes no {refused[1]!r}; remove it from pretrain.backbone, "
                    "or set it for other backbones alone in overrides"
                ) from None
            del arguments[refused[1]]


def create_backbone(name: str, arguments: dict[str, Any]) -> nn.Module:
    """Build a randomly initialised backbone whose output is the pooled embedding (B, D)."""
    asked = dict(arguments)
    small_stem = asked.pop("small_stem", False)
    with _errors_alone():
        backbone = _timm().create_model(name, pretrained=False, num_classes=0, **asked)
    if small_stem:
        shrink_stem(backbone)
    return backbone


def shrink_stem(backbone: nn.Module) -> None:
    """Give a ResNet the stem for images of about 32 px: a 3x3 convolution of stride 1 and no max-pooling.

    Usual for CIFAR-10 (Chen et al., arXiv 2002.05709, appendix B.9); plain timm halves such images twice before its
    first block.

    Raises:
        TypeError: if the backbone is no ResNet of timm.
    """
    first, pool = getattr(backbone, "conv1", None), getattr(backbone, "maxpool", None)
    if first is None or pool is None:
        raise TypeError("unexpected keyword argument 'small_stem'")
    channels = first.out_channels if isinstance(first, nn.Conv2d) else first[-1].out_channels
    backbone.conv1 = nn.Conv2d(3, channels, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(backbone.conv1.weight, mode="fan_out", nonlinearity="relu")
    backbone.maxpool = nn.Identity()


@contextmanager
def _errors_alone() -> Iterator[None]:
    builder = logging.getLogger("timm.models._builder")
    level, builder.level = builder.level, logging.ERROR
    try:
        yield
    finally:
        builder.level = level


def count_params(name: str) -> int:
    """Return the number of parameters at the architecture's own input size, without a classifier; allocates none."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in create_backbone(name, {}).parameters())


def weight_decay_groups(modules: Iterable[nn.Module], weight_decay: float) -> list[dict[str, Any]]:
    """Return AdamW's groups: what decays, and biases, norms and what timm exempts, which do not.

    Args:
        modules: their parameters, each module with its own `no_weight_decay`, if it has one.
        weight_decay: of the first group.
    """
    decay, keep = [], []
    for module in modules:
        exempt = getattr(module, "no_weight_decay", set)()
        for name, parameter in module.named_parameters():
            (keep if parameter.ndim < 2 or name in exempt else decay).append(parameter)
    return [{"params": decay, "weight_decay": weight_decay}, {"params": keep, "weight_decay": 0.0}]


def no_recomputing(backbone: nn.Module) -> str:
    """Say why backward passes cannot compute the blocks of a backbone again (timm's `set_grad_checkpointing`), or "".

    BatchNorm's running statistics would take each batch twice.
    """
    if has_batchnorm(backbone):
        return "has BatchNorm, whose running statistics would take each batch twice"
    try:
        backbone.set_grad_checkpointing(True)
    except (AttributeError, AssertionError):  # timm asserts that nothing is asked for
        return "cannot compute its blocks again in timm"
    backbone.set_grad_checkpointing(False)
    return ""


def has_batchnorm(backbone: nn.Module) -> bool:
    """Whether any layer normalises over the batch."""
    return any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in backbone.modules())


def check_backbone(
    name: str, arguments: dict[str, Any], *, global_px: int, local_px: int | None, batch_size: int
) -> BackboneInfo:
    """Run one forward and backward pass at both resolutions on two images, in training mode.

    Args:
        name: timm model name.
        arguments: of `backbone_arguments`.
        global_px: side of a global view, px.
        local_px: side of a local view, px; None where there are none.
        batch_size: images a step, which BatchNorm must be able to normalise.

    Raises:
        BackboneError: naming backbone, resolution, what failed and which setting to change.
    """
    backbone = create_backbone(name, arguments).train()
    normalises = has_batchnorm(backbone)
    if normalises and batch_size < 4:
        raise BackboneError(
            f"backbone {name!r} normalises over the batch: pretrain.batch_size must be >= 4, got {batch_size}"
        )
    shapes = {px: _embed(backbone, name, px, setting) for px, setting in _resolutions(global_px, local_px)}
    if any(len(shape) != 2 for shape in shapes.values()) or len(set(shapes.values())) != 1:
        raise BackboneError(
            f"backbone {name!r} must give one vector an image, the same at every resolution, got {shapes}; "
            "choose another backbone or set a pooling in pretrain.backbone.kwargs (global_pool: avg)"
        )
    return BackboneInfo(sum(p.numel() for p in backbone.parameters()), shapes[global_px][-1], normalises)


def _resolutions(global_px: int, local_px: int | None) -> list[tuple[int, str]]:
    local = [(local_px, "pretrain.views.local_px")] if local_px else []
    return [(global_px, "pretrain.views.global_px"), *local]


def _embed(backbone: nn.Module, name: str, size_px: int, setting: str) -> tuple[int, ...]:
    try:
        return forward_backward(backbone, size_px)
    except (RuntimeError, ValueError, AssertionError, IndexError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BackboneError(
            f"backbone {name!r} fails at {size_px} px ({setting}): {reason}; "
            f"raise {setting}, {'set pretrain.views.num_local to 0, ' if 'local' in setting else ''}"
            "set pretrain.backbone.patch_size, or remove the backbone (an entry under overrides can do it for one)"
        ) from None


def forward_backward(backbone: nn.Module, size_px: int) -> tuple[int, ...]:
    """Run two random images forward and backward; return the shape of their embedding."""
    embedding: Tensor = backbone(torch.randn(2, 3, size_px, size_px))
    embedding.float().square().mean().backward()
    return tuple(embedding.shape)


def initial_backbone(name: str, arguments: dict[str, Any], *, seed: int) -> nn.Module:
    """Return the backbone as pretraining with this seed starts from it (the random-init baseline)."""
    torch.manual_seed(derive_seed(seed, "init"))
    return create_backbone(name, arguments)


def published(name: str) -> Published:
    """Return what timm knows about the weights of `name` (with its tag; without one the default weights)."""
    config = _timm().get_pretrained_cfg(name) or _timm().models.PretrainedCfg()
    if config.hf_hub_id:
        address, file = f"https://huggingface.co/{config.hf_hub_id}", config.hf_hub_filename or "model.safetensors"
    else:
        address, file = config.url or "", (config.url or "").rpartition("/")[2]
    licence = config.license or "not stated by timm"
    return Published(address, file, licence, config.input_size[-1], list(config.mean), list(config.std))


def pretrained_backbone(
    name: str, arguments: dict[str, Any], *, state: Mapping[str, Tensor] | None = None, address: str | None = None
) -> nn.Module:
    """Build a backbone with published weights; timm converts names and resamples position embeddings.

    Every weight must be found and have the right shape: weights are loaded with the classifier that they were
    published with, strictly, and the classifier is dropped afterwards. Weights at hand may lack the classifier, or have
    another one.

    Args:
        name: timm model name with the tag of its weights.
        arguments: of `backbone_arguments`.
        state: the weights, named as in timm or as in an original that timm converts; None: a download.
        address: of a folder in timm's format to load instead, local-dir:PATH or hf-hub:REPOSITORY; None: timm's own
            download of `name`.

    Raises:
        Exception: whatever a download or weights that do not fit end in; `pipeline.zoo.pretrained` explains it.
    """
    create = partial(_timm().create_model, address or name, pretrained=True, **arguments)
    with _errors_alone():
        if state is None:
            backbone = create()
        else:
            try:
                backbone = create(pretrained_cfg_overlay={"state_dict": dict(state)})
            except RuntimeError:  # load_state_dict names what is missing or too much
                bare = _without_classifier(name, state)
                backbone = create(num_classes=0, pretrained_cfg_overlay={"state_dict": bare, "num_classes": 0})
    backbone.reset_classifier(0)
    with torch.device("meta"):
        plain = create_backbone(name, arguments)
    plain.load_state_dict(backbone.state_dict(), strict=True, assign=True)  # so it will load where it is used
    return backbone


def backbone_in_folder(address: str) -> nn.Module:
    """Return what plain `timm.create_model(address, pretrained=True)` makes of a folder in timm's format."""
    with _errors_alone():
        return _timm().create_model(address, pretrained=True)


def _without_classifier(name: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    told = getattr(_timm().get_pretrained_cfg(name), "classifier", None) or ()
    layers = (told,) if isinstance(told, str) else told
    return {key: tensor for key, tensor in state.items() if not key.startswith(tuple(f"{layer}." for layer in layers))}


def weights_in_file(path: Path) -> dict[str, Tensor]:
    """Return the weights of a safetensors or weights-only torch file; of a whole training's as timm picks them.

    That is averaged ones (`state_dict_ema`, `model_ema`) before `state_dict` and `model`, without the prefix `module.`.
    """
    return _timm().models.load_state_dict(str(path), device="cpu", weights_only=True)
