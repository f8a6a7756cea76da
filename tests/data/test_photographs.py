"""Claims: views of photographs are cut at the picture's own resolution; each is torchvision's resized crop of the whole
picture, and nearly so where a JPEG is decoded at a fraction of its size; boxes are torchvision's for unequal pictures;
the same crops come from any number of workers, to the ranks that share a batch, and after a resumption."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from packed_pictures import encode, noise, pack_all
from PIL import Image
from scipy.stats import ks_2samp
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms.v2 import functional as reference

from pipeline.data.loader import BatchReader, CropBatch, open_split, squares
from pipeline.data.photographs import CentreCut, RandomCut, cut_photographs
from pipeline.data.views.multicrop import Multicrop, evaluation_view

pytestmark = pytest.mark.seconds

VIEWS = Multicrop(global_px=32, local_px=16)


@pytest.fixture
def photographs(tmp_path):
    contents = [encode(Image.fromarray(noise(i, 40 + 3 * i, 70, 3)), "JPEG" if i % 2 else "PNG") for i in range(24)]
    pack_all(tmp_path, contents)
    return open_split(tmp_path / "set", "train", load_px=256, memory_gb=1)


def crops(images, num_workers=0, start=0):
    cut = RandomCut(VIEWS, 0, "crops", start)
    return list(BatchReader(images, num_workers=num_workers)(torch.arange(6 * start, 24), 6, cut=cut))


def same(left, right):
    return all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


def test_a_view_is_torchvisions_resized_crop_of_the_whole_picture():
    picture = Image.fromarray(noise(0, 120, 170, 3))
    cut = RandomCut(VIEWS, 3, "crops", step=5)
    groups = cut_photographs([encode(picture)], 3, cut, number=2)
    boxes = cut.boxes(torch.tensor([[120.0, 170.0]]), 2)
    assert [list(group.shape) for group in groups] == [[2, 1, 3, 32, 32], [6, 1, 3, 16, 16]]
    for views, of_views in zip(groups, boxes, strict=True):
        for view, box in zip(views[:, 0], of_views[:, 0].int().tolist(), strict=True):
            wanted = reference.resized_crop(picture, *box, list(view.shape[1:]))
            assert torch.equal(view, reference.pil_to_tensor(wanted))


def test_a_large_jpeg_decoded_at_a_fraction_shows_the_same():
    coarse = Image.fromarray(noise(0, 12, 16, 3)).resize((1600, 1200), Image.Resampling.BICUBIC)
    file = encode(coarse, "JPEG", quality=95)
    for cut in (RandomCut(VIEWS, 0, "crops"), CentreCut(64)):
        boxes = cut.boxes(torch.tensor([[1200.0, 1600.0]]), 0)
        for views, of_views in zip(cut_photographs([file], 3, cut, 0), boxes, strict=True):
            for view, box in zip(views[:, 0], of_views[:, 0].int().tolist(), strict=True):
                wanted = reference.pil_to_tensor(reference.resized_crop(coarse, *box, list(view.shape[1:])))
                assert (view.float() - wanted).abs().mean() < 2.5


def test_probes_see_resize_and_centre_crop(photographs):
    (batch,) = squares(photographs, torch.arange(24), 24, 32)
    assert batch.pixels.shape == (24, 3, 32, 32) and torch.equal(batch.labels, photographs.labels)
    picture = Image.open(io.BytesIO(photographs.encoded(8)))  # 64 x 70 px
    wanted = reference.pil_to_tensor(reference.resize(reference.center_crop(picture, [64, 64]), [32, 32]))
    assert (batch.pixels[8].float() - wanted).abs().max() <= 1
    view = evaluation_view(batch.pixels, 32, mean=(0.0,) * 3, std=(1.0,) * 3)
    torch.testing.assert_close(view, batch.pixels / 255, atol=1e-5, rtol=0)


def test_boxes_of_unequal_pictures_are_distributed_as_torchvisions():
    torch.manual_seed(0)
    sizes = [(375, 500), (500, 333), (120, 640)]
    cut = RandomCut(replace(VIEWS, num_global=1000), 0, "crops")
    found, _ = cut.boxes(torch.tensor(sizes, dtype=torch.float32), 0)
    for place, size in enumerate(sizes):
        picture = torch.empty(1, *size)
        scale, ratio = VIEWS.global_scale, VIEWS.ratio
        wanted = np.array([RandomResizedCrop.get_params(picture, scale, ratio) for _ in range(1000)], dtype=float)
        for column in range(4):
            assert ks_2samp(found[:, place, column], wanted[:, column]).pvalue > 1e-3, (size, column)


def test_crops_do_not_depend_on_workers_ranks_or_resumption(photographs):
    state = torch.get_rng_state()
    whole = crops(photographs)
    assert len(whole) == 4 and isinstance(whole[0], CropBatch) and whole[0].local_crops.shape == (6, 6, 3, 16, 16)
    for num_workers in (1, 3):
        assert all(map(same, crops(photographs, num_workers), whole))
    resumed = crops(photographs, start=2)
    assert all(map(same, resumed, whole[2:]))
    for rank in (0, 1):
        mine = torch.arange(24).view(4, 6)[:, 3 * rank : 3 * rank + 3].flatten()
        read = BatchReader(photographs)(mine, 3, cut=RandomCut(VIEWS, 0, "crops", 0, 3 * rank, 6))
        for part, batch in zip(read, whole, strict=True):
            assert torch.equal(part.global_crops, batch.global_crops[:, 3 * rank : 3 * rank + 3])
            assert torch.equal(part.local_crops, batch.local_crops[:, 3 * rank : 3 * rank + 3])
    assert not torch.equal(whole[0].global_crops[0], whole[0].global_crops[1])
    assert torch.equal(state, torch.get_rng_state())
