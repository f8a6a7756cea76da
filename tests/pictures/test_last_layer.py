"""Claims about features and attention at each place of an image:

1. Patch features are timm's last layer on its grid: patch tokens in reading order without prefix tokens, or the map.
2. Attention of the class token is the softmax of its query with all keys, of the last block, also with register tokens
   and normalised queries. Without a class token it is the mean activation.
3. Where the last map is too coarse to see anything, the deepest layer with a finer one is shown, and named.
4. A stitched map is that of a network with the finer stride.
"""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import avg_pool2d, pad

from pipeline.pictures.last_layer import (
    attention_maps,
    cls_attention,
    deepest_features,
    mean_activation,
    patch_features,
    stitched,
)
from pipeline.runtime.errors import UserError
from tests.small_networks import VIT, network, random

# 1. Patch features


def test_patch_tokens_come_in_reading_order():
    vit = network("test_vit", **VIT, reg_tokens=3)
    views = random(2, 3, 48, 48)
    found = patch_features(vit, views)
    with torch.no_grad():
        tokens = vit.forward_features(views)[:, 4:]  # a class token and three registers
    assert found.shape == (2, 6, 6, 64) and found.dtype == torch.float32
    assert torch.equal(found[:, 1, 2], tokens[:, 6 + 2])


def test_feature_maps_have_features_last():
    backbone, views = network("test_resnet"), random(2, 3, 64, 64)
    with torch.no_grad():
        expected = backbone.forward_features(views)
    assert torch.equal(patch_features(backbone, views), expected.movedim(1, -1))
    small = {"img_size": 64, "window_size": 2, "embed_dim": 8, "depths": [1, 1], "num_heads": [1, 1]}
    swin = network("swin_tiny_patch4_window7_224", **small)  # its maps have them last already
    assert patch_features(swin, views).shape == (2, 8, 8, 16)


# 2. Attention


def last_block_input(vit, views):
    seen = []
    hook = vit.blocks[-1].attn.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        vit.forward_features(views)
    hook.remove()
    return seen[0]


@pytest.mark.parametrize("arguments", [{}, {"reg_tokens": 2, "qk_norm": True}])
def test_class_token_attention_is_the_explicit_softmax(arguments):
    vit, views = network("test_vit", **VIT, **arguments), random(3, 3, 32, 32)
    block, tokens = vit.blocks[-1].attn, last_block_input(vit, views)
    with torch.no_grad():
        query, key, _ = block.qkv(tokens).unflatten(-1, (3, 2, 32)).permute(2, 0, 3, 1, 4)
        scores = block.q_norm(query[:, :, :1]) @ block.k_norm(key).mT / 32**0.5
    expected = scores.softmax(-1)[:, :, 0, vit.num_prefix_tokens :].unflatten(-1, (4, 4))
    torch.testing.assert_close(cls_attention(vit, views), expected, rtol=1e-5, atol=1e-7)
    assert expected.std() > 0


def test_without_class_token_attention_is_the_mean_activation():
    resnet, views = network("test_resnet"), random(2, 3, 64, 64)
    found = attention_maps(resnet, views)
    with torch.no_grad():
        strength = resnet.forward_features(views).abs().mean(1, keepdim=True)
    torch.testing.assert_close(found, strength / strength.sum((2, 3), keepdim=True))
    assert (mean_activation(torch.zeros(1, 2, 2, 5)) == 0).all()
    with pytest.raises(UserError, match="no class token whose attention can be read"):
        cls_attention(resnet, views)


# 3. Fine enough maps


@pytest.mark.parametrize(
    ("name", "size_px", "stage"), [("test_convnext", 32, 1), ("test_efficientnet", 32, 2), ("test_byobnet", 64, 3)]
)
def test_the_deepest_stage_that_is_fine_enough_is_shown(name, size_px, stage):
    backbone, views = network(name), random(2, 3, size_px, size_px)
    found, layer = deepest_features(backbone, views, least_side=4)
    with torch.no_grad():
        stages = backbone.forward_intermediates(views, intermediates_only=True)
    assert found.shape[1:3] == (4, 4) and layer == backbone.feature_info[stage]["module"]
    assert torch.equal(found, stages[stage].movedim(1, -1))
    assert stages[stage + 1].shape[-1] < 4


# 4. Finer maps


def test_a_stitched_map_is_that_of_a_finer_stride():
    views = random(2, 3, 32, 32)
    means = lambda stride: lambda v: avg_pool2d(v, 8, stride).movedim(1, -1)  # noqa: E731
    found = stitched(means(8), views, fine_side=16)
    assert found.shape == (2, 16, 16, 3)
    # Windows of 8 px whose first one is centred at 1 px: three pixels of it repeat the border.
    expected = means(2)(pad(views, (3, 3, 3, 3), mode="replicate"))
    torch.testing.assert_close(found, expected)
