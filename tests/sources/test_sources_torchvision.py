"""Claims: any class of torchvision.datasets can be used with its own arguments; its archives resume after a cut and
are fetched once; half-unpacked folders are not trusted; files go to the packer byte for byte."""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile

import numpy as np
import pytest
import torchvision.datasets
from PIL import Image
from source_helpers import ROOT, labels_of, png, read

from pipeline.catalogue.datasets import load_catalogue
from pipeline.sources.open import open_source
from pipeline.sources.transfer import FetchError

# ---- torchvision


def idx(array):
    header = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    return gzip.compress(header + array.tobytes(), mtime=0)


@pytest.fixture
def fashion_mirror(server, monkeypatch):
    """FashionMNIST in its real format on a mirror of ours, behind a mirror that is dead."""
    random, resources = np.random.default_rng(0), []
    for prefix, count in (("train", 40), ("t10k", 20)):
        images, labels = random.integers(0, 256, (count, 28, 28), dtype=np.uint8), np.arange(count, dtype=np.uint8) % 10
        for name, array in ((f"{prefix}-images-idx3-ubyte.gz", images), (f"{prefix}-labels-idx1-ubyte.gz", labels)):
            server.files[f"/{name}"] = idx(array)
            resources.append((name, hashlib.md5(server.files[f"/{name}"]).hexdigest()))
    monkeypatch.setattr(torchvision.datasets.FashionMNIST, "resources", resources)
    monkeypatch.setattr(torchvision.datasets.FashionMNIST, "mirrors", ["http://127.0.0.1:9/", f"{server.url}/"])
    return server


FASHION = dict(source="torchvision", dataset="FashionMNIST", train={"train": True}, test={"train": False})


def test_torchvision_resumes(tmp_path, fashion_mirror, capsys):
    fashion_mirror.num_cuts = 2
    classes, splits = read(tmp_path, **FASHION)
    assert classes[0] == "T-shirt/top" and len(splits["train"]) == 40
    assert labels_of(splits["test"]) == [i % 10 for i in range(20)]
    resumed = [wanted for path, wanted, _ in fashion_mirror.seen if path == "/train-images-idx3-ubyte.gz" and wanted]
    assert resumed and not resumed[0].endswith("=0-")
    with gzip.open(io.BytesIO(fashion_mirror.files["/train-images-idx3-ubyte.gz"])) as file:
        assert np.asarray(splits["train"][0].content).tobytes() == file.read()[16 : 16 + 784]


def test_torchvision_keeps_finished_files(tmp_path, fashion_mirror):
    read(tmp_path, **FASHION)
    half = tmp_path / "scratch" / "root" / "FashionMNIST" / "raw" / "train-images-idx3-ubyte"
    half.write_bytes(half.read_bytes()[:1000])  # unpacking was interrupted
    fashion_mirror.seen.clear()
    assert len(read(tmp_path, **FASHION)[1]["train"]) == 40
    assert len(fashion_mirror.seen) == 4  # torchvision asks for redirects; nothing is fetched again


def test_torchvision_checksum(tmp_path, fashion_mirror):
    fashion_mirror.files["/t10k-labels-idx1-ubyte.gz"] += b"x"
    with pytest.raises(FetchError, match=r"does not have the checksum that torchvision expects.*run the same command"):
        read(tmp_path, **FASHION)
    assert not (tmp_path / "scratch" / "files").exists()


@pytest.fixture
def photos(tmp_path):
    """JPEG photographs as Imagenette holds them, in its archive."""
    root = tmp_path / "imagenette2-320"
    for split in ("train", "val"):
        for wnid in ("n01440764", "n03028079"):
            folder = root / split / wnid
            folder.mkdir(parents=True)
            for i in range(2):
                Image.open(io.BytesIO(png(i, 9, 8, 3))).save(folder / f"{split}_{wnid}_{i}.JPEG")
    return root


def test_torchvision_hands_files_on(tmp_path, server, monkeypatch, photos):
    """A class with a loader gives the files themselves, so that a JPEG is not decoded and encoded anew."""
    with tarfile.open(tmp_path / "x.tgz", "w:gz") as archive:
        archive.add(photos, photos.name)
    body = (tmp_path / "x.tgz").read_bytes()
    server.files["/imagenette2-320.tgz"] = body
    known = {"320px": (f"{server.url}/imagenette2-320.tgz", hashlib.md5(body).hexdigest())}
    monkeypatch.setattr(torchvision.datasets.Imagenette, "_ARCHIVES", known)
    inet10 = load_catalogue(ROOT / "params.yaml")["inet10"]
    source = open_source("inet10", inet10, tmp_path / "scratch")
    splits = {split: list(pictures) for split, pictures in source.splits.items()}
    assert source.classes == ["tench, Tinca tinca", "church, church building"]
    assert labels_of(splits["train"]) == labels_of(splits["test"]) == [0, 0, 1, 1]
    first = splits["test"][3]
    assert first.content.read_bytes() == (photos / "val" / "n03028079" / "val_n03028079_1.JPEG").read_bytes()
