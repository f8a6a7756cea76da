"""Claims about data that anyone may bring, each at the level of `python -m stages.download NAME` (cases B1 to B10):
what is read is what is there, found = used + left out; values are scaled by what type and range say; one rule for
labels in npz, HDF5 and parquet; all faults of a set are named at once, with the true reason; disks that lack links are
no obstacle."""

from __future__ import annotations

import errno
import json
import os
import shlex
import shutil
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image, PngImagePlugin
from source_helpers import png, write_arrays

from pipeline.data.packed import PackedSplit
from pipeline.runtime import bars, files
from pipeline.runtime.errors import UserError
from pipeline.settings.grid import open_listing
from pipeline.sources import packing
from pipeline.sources.hub import choose_files
from stages import configure, download, foreign

pytestmark = pytest.mark.seconds

LABELS = np.arange(60) % 3
NAMES = np.array(["cat", "dog", "owl"])[LABELS]
GREY = np.random.default_rng(0).integers(0, 200, (60, 16, 16))
COLOUR = np.random.default_rng(0).integers(0, 256, (60, 16, 16, 3), dtype=np.uint8)


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def have(name="new", **fields) -> dict:
    """Run the stage for an entry and return meta.json."""
    Path("params.yaml").write_text(json.dumps({"datasets": {name: fields}}), encoding="utf-8")
    download.main(name)
    return json.loads(Path("data", name, "meta.json").read_text(encoding="utf-8"))


def refused(*words, name="new", **fields) -> str:
    """Run the stage for an entry that must be refused; return the message, which holds the words."""
    with pytest.raises(UserError) as caught:
        have(name, **fields)
    told = str(caught.value)
    assert [word for word in words if word not in told] == [], told
    return told


def arrays(suffix=".npz", images=COLOUR, labels=LABELS, **fields) -> dict:
    """Write a file of arrays and return its entry."""
    write_arrays(f"a{suffix}", images=images, labels=labels)
    return {"source": "arrays", "path": f"a{suffix}", "images": "images", "labels": "labels", **fields}


def folder(root="my set", classes=("cat", "dog"), num=10, **fields) -> dict:
    """Write pictures in a folder per class and return the entry."""
    for label in classes:
        Path(root, label).mkdir(parents=True, exist_ok=True)
        for index in range(num):
            Path(root, label, f"{index}.png").write_bytes(png(abs(hash((root, label, index))) % 2**32, 9, 8, 3))
    return {"source": "folder", "path": root.split("/")[0], **fields}


def parquet(name="my/train-0.parquet", images=None, **columns) -> dict:
    """Write a parquet file and return the entry of a set that splits it."""
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    images = [{"bytes": png(i, 6, 6, 3), "path": None} for i in range(60)] if images is None else images
    pd.DataFrame({"image": images, **columns}).to_parquet(name)
    return {"source": "huggingface", "path": "my/{split}-*.parquet", "splits": {"test": None}}


def packed() -> set[bytes]:
    """Return the pixels of all packed pictures, channels first."""
    splits = (PackedSplit("data/new", split, load_px=16) for split in ("train", "test"))
    return {images[index][0].numpy().tobytes() for images in splits for index in range(len(images))}


# ---- B1: what was read


def test_meta_tells_what_was_read():
    """B1"""
    entry = folder()
    sizes = [path.stat().st_size for path in Path("my set").rglob("*.png")]
    assert have(**entry)["inputs"] == {"num_files": 20, "num_bytes": sum(sizes)}
    assert have(**arrays())["inputs"] == {"num_files": 1, "num_bytes": Path("a.npz").stat().st_size}
    assert have(source="sklearn")["inputs"] == {"num_files": 0, "num_bytes": 0}


# ---- B2: scaling


@pytest.mark.parametrize(
    ("images", "told"),
    [
        ((GREY / 255).astype(np.float32), "of float32, taken as 0..1 "),
        (GREY.astype(np.float32), "values 0..199 of float32, taken as 0..255 "),
        ((GREY > 100).astype(np.uint8), "values 0..1 of uint8, taken as 0..1 "),
        (GREY.astype(np.uint8), "values 0..199 of uint8, taken as 0..255 "),
        ((GREY * 257).astype(np.uint16), "values 0..51143 of uint16, taken as 0..65535 "),
    ],
    ids=lambda value: str(getattr(value, "dtype", "")),
)
@pytest.mark.parametrize("suffix", [".npz", ".h5"])
def test_values_are_scaled_by_what_type_and_range_say(images, told, suffix, capsys):
    """B2"""
    have(**arrays(suffix, images))
    assert told in capsys.readouterr().out
    white = float(told.rpartition("..")[2])
    assert packed() == {np.rint(image.astype(float) * 255 / white).astype(np.uint8).tobytes() for image in images}


TYPED = {
    "twelve bits": (GREY.astype(np.uint16) * 16, None, "4095"),
    "twelve bits taken for sixteen": (GREY.astype(np.uint16) * 16, 65535, "4095"),
    "eight bits in uint16": (GREY.astype(np.uint16), None, "255"),
    "digits of 0..16": (GREY % 17, None, "16"),
    "bytes with the white of floats": (GREY.astype(np.uint8), 1, "255"),
}


@pytest.mark.parametrize(("images", "max_value", "remedy"), TYPED.values(), ids=TYPED)
def test_a_white_that_cannot_be_meant_is_refused_with_one_that_works(images, max_value, remedy):
    """B2"""
    told = refused("datasets.new: 'images'", f"set max_value: {remedy}", **arrays(images=images, max_value=max_value))
    typed = float(told.rpartition("max_value: ")[2])
    have(**arrays(images=images, max_value=typed))
    assert max(map(max, packed())) > 60


def test_what_is_no_brightness_is_refused():
    """B2"""
    refused("no negative values, got -1..1 of float64", **arrays(images=np.where(GREY > 100, 1.0, -1.0)))
    refused("must be finite", **arrays(images=np.where(GREY > 100, np.inf, 0.0)))


def test_constant_images_are_counted_and_refused_where_they_are_all_alike(capsys):
    """B2"""
    images = COLOUR.copy()
    images[:20] = 7
    assert have(**arrays(images=images))["num_constant_images"] == 20
    assert "20 images are one colour throughout" in capsys.readouterr().out
    images[:50] = 7
    told = refused("split 'train'", "split 'test'", "same colour throughout (0x70707)", **arrays(images=images))
    assert told.count("\n  - ") == 2
    have(**arrays(images=np.broadcast_to(np.arange(60, dtype=np.uint8)[:, None, None] * 4, (60, 8, 8))))


@pytest.mark.parametrize("suffix", [".npz", ".h5"])
def test_a_layout_is_told_or_asked_for(suffix, capsys):
    """B2"""
    assert have(**arrays(suffix, COLOUR.transpose(0, 3, 1, 2)))["channels"] == 3
    assert "(N, C, H, W), colour" in capsys.readouterr().out
    assert packed() == {image.transpose(2, 0, 1).tobytes() for image in COLOUR}
    either = np.ascontiguousarray(COLOUR[:, :3])
    refused("(60, 3, 16, 3)", "set channels_first: false or true", **arrays(suffix, either))
    assert have(**arrays(suffix, either, channels_first=False))["height_px"] == [3, 3]
    assert have(**arrays(suffix, either, channels_first=True))["height_px"] == [16, 16]
    have(**arrays(suffix, np.concatenate([COLOUR, COLOUR[..., :1]], -1)))
    assert "colour and opacity (RGBA)" in capsys.readouterr().out


# ---- B3: what is left out


def test_everything_that_is_found_is_accounted_for(capsys):
    """B3"""
    entry = folder()
    root = Path("my set")
    for name in ("cat/.DS_Store", "cat/notes.txt", "labels.csv", ".git/x"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).touch()
    (root / "empty").mkdir()
    (root / "dog/gone.png").symlink_to("nowhere.png")
    (root / "dog/round.png").symlink_to("round.png")
    (root / "dog/self").symlink_to("../dog")
    os.mkfifo(root / "dog/pipe.png")
    folder("elsewhere", ("more",), num=30)
    (root / "cat/more").symlink_to("../../elsewhere/more")
    (root / "bird").symlink_to("../elsewhere/more")
    meta = have(**entry)
    assert meta["left_out"] == {
        "hidden files and folders": 2,
        "files beside the class folders": 1,
        "files without a picture's suffix": 1,
        "links that lead nowhere": 2,
        "neither files nor folders": 1,
        "linked folders that lead back to where they are": 1,
        "empty class folders": 1,
    }
    assert (meta["found"], meta["used"]) == (89, 80)
    assert meta["found"] == meta["used"] + sum(meta["left_out"].values())
    assert sum(split["num_images"] for split in meta["splits"].values()) == 80
    said = capsys.readouterr()
    assert "found 89 = used 80 + left out 9" in said.out and "30 pictures of cat lie in folders of it" in said.out
    assert "left out 1: files without a picture's suffix, as cat/notes.txt" in said.out
    assert "warning: new: left out 9: " in said.err


def test_folders_and_files_without_permission_are_named(monkeypatch, capsys):
    """B3"""
    entry = folder()
    folder("my set/cat", ("sub",))
    real = os.scandir, os.access

    def scandir(path):
        if Path(path).name == "sub":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real[0](path)

    monkeypatch.setattr(os, "scandir", scandir)
    monkeypatch.setattr(os, "access", lambda path, mode: "dog/3.png" not in str(path) and real[1](path, mode))
    meta = have(**entry)
    assert meta["left_out"] == {
        "folders without permission to read (chmod u+rx)": 1,
        "files without permission to read (chmod u+r)": 1,
    }
    assert meta["used"] == 19
    assert "as cat/sub" in (said := capsys.readouterr().out) and "as dog/3.png" in said


# ---- B4: names


def test_names_that_are_no_utf8_are_refused_before_packing(monkeypatch):
    """B4"""
    entry = folder()
    os.rename("my set/cat", os.fsencode("my set") + b"/caf\xe9")
    os.rename("my set/dog/0.png", b"my set/dog/\xfc.png")
    monkeypatch.setattr(packing, "prepare", lambda _: pytest.fail("it was packed"))
    told = refused("2 not in UTF-8", r"caf\xe9", r"dog/\xfc.png", "rename", **entry)
    told.encode("ascii")


# ---- B5: pixels are what counts


def test_a_picture_with_a_long_text_is_a_good_picture():
    """B5"""
    entry = folder()
    note = PngImagePlugin.PngInfo()
    note.add_text("x", "a" * 2_000_000, zip=True)
    Image.fromarray(COLOUR[0]).save("my set/cat/0.png", pnginfo=note)
    meta = have(**entry)
    assert meta["changes"] == {"metadata left out": 1} and meta["used"] == 20
    for split in ("train", "test"):
        images = PackedSplit("data/new", split, load_px=16)
        assert all(len(images.encoded(index)) < 10_000 for index in range(len(images)))
        assert len([images[index] for index in range(len(images))]) == len(images)


def test_all_bad_pictures_are_named_at_once():
    """B5"""
    entry = folder(num=20)
    for index in range(12):
        Path("my set/dog", f"{index}.png").write_bytes(b"\x89PNG broken")
    Path("my set/cat/3.png").write_bytes(b"")
    told = refused("13 faults", "cat/3.png", "zero bytes", "... and 3 more", "repair these pictures", **entry)
    assert told.count("cannot identify image file: ") == 9 and "0x" not in told
    assert not Path("data/new").exists()


def test_all_other_faults_of_a_set_are_named_at_once():
    """B5"""
    entry = arrays(test_images="xt", test_labels="yt") | {"images": "imgs"}
    np.savez("a.npz", images=COLOUR, labels=LABELS, xt=COLOUR[:9, :, :, :2], yt=LABELS[:9])
    refused("2 faults", "unknown key 'imgs'", "'xt' must be", **entry)
    np.savez("a.npz", imgs=COLOUR[:6], labels=[0, 1, 2, 4, 4, 4], xt=COLOUR[:9], yt=[0, 0, 0, 0, 1, 1, 3, 3, 3])
    refused("2 faults", "split 'train' has no picture of 1 of 5", "split 'test' has no picture of 2 of 5", **entry)


# ---- B6: labels


def entry_of(kind, values):
    return parquet(label=values) if kind == "parquet" else arrays(kind, labels=np.asarray(values))


@pytest.mark.parametrize("kind", ["parquet", ".npz", ".h5"])
@pytest.mark.parametrize(
    ("values", "classes"),
    [
        (LABELS, ["0", "1", "2"]),
        (LABELS.astype(float), ["0", "1", "2"]),
        (LABELS == 0, ["0", "1"]),
        (NAMES.astype("S"), ["cat", "dog", "owl"]),
        (np.where(LABELS == 0, np.nan, LABELS), ["1", "2"]),
    ],
    ids=["integers", "whole floats", "booleans", "names", "NaN"],
)
def test_labels_mean_the_same_in_every_container(kind, values, classes):
    """B6"""
    meta = have(**entry_of(kind, values))
    assert meta["classes"] == classes
    num_unlabelled = 20 if classes == ["1", "2"] else 0
    assert meta["left_out"] == ({"rows without a label": 20} if num_unlabelled else {})
    assert meta["used"] + num_unlabelled == meta["found"] == 60


@pytest.mark.parametrize("kind", ["parquet", ".npz", ".h5"])
def test_labels_that_are_no_classes_have_the_same_message_everywhere(kind):
    """B6"""
    refused("labels of split 'train' must be class numbers or names, got 0.5", **entry_of(kind, LABELS / 2))
    refused("split 'train' has no labels: all 60 rows", **entry_of(kind, np.full(60, np.nan)))


def test_categories_and_missing_labels_in_parquet():
    """B6"""
    assert have(**parquet(label=pd.Categorical(NAMES)))["classes"] == ["cat", "dog", "owl"]
    values = pd.Series(np.where(LABELS == 1, None, NAMES))
    assert have(**parquet(label=values))["left_out"] == {"rows without a label": 20}
    values = pd.Series(np.where(LABELS == 1, None, LABELS)).astype("Int64")
    assert have(**parquet(label=values))["classes"] == ["0", "2"]
    refused("label_column: 'label' must hold class numbers or names, got list", **parquet(label=[[1, 2]] * 60))


def test_pickled_labels_are_refused_with_a_command_that_works():
    """B6"""
    entry = arrays(labels=NAMES.astype(object))
    told = refused("'labels'", "pickled objects, which are never loaded", "if you trust the file", **entry)
    command = told.partition("in a terminal: ")[2].replace("python", shlex.quote(sys.executable), 1)
    subprocess.run(command, shell=True, check=True)
    assert have(**entry)["classes"] == ["cat", "dog", "owl"]
    ragged = np.empty(60, object)
    ragged[:] = [np.zeros((i + 1, 2)) for i in range(60)]
    refused("'images'", "unequal sizes in a folder per class", **arrays(images=ragged))


# ---- B7: layouts of parquet files


@pytest.mark.parametrize(
    "layout",
    [
        "{}/part-00000-x.parquet",
        "{}_00.parquet",
        "{}.parquet",
        "data/{}/a.parquet",
        "{}/{}-00000-of-00001.parquet",
        "data/{}-00000-of-00002-0ab.parquet",
    ],
)
def test_layouts_of_hub_sets(layout):
    """B7"""
    paths = [layout.replace("{}", split) for split in ("train", "validation", "test")]
    assert choose_files([*paths, "README.md"], config=None, splits={"train": "train", "test": "test"}) == {
        "train": paths[:1],
        "test": paths[2:],
    }


def test_files_that_were_seen_are_listed():
    """B7"""
    with pytest.raises(UserError, match=r"no parquet files; seen: a.tar, b.csv; understood: .*try revision: main"):
        choose_files(["b.csv", "a.tar"], config=None, splits={"train": "train"}, revision="refs/convert/parquet")
    with pytest.raises(UserError, match=r"unknown split 'test'.*known: train.*test: null.*seen: train-0.parquet"):
        choose_files(["train-0.parquet"], config=None, splits={"train": "train", "test": "test"})
    parquet(label=NAMES)
    entry = {"source": "huggingface", "path": "my/{split}/*.parquet"}
    refused("no file matches", "seen: train-0.parquet in", "correct path", **entry)


def test_parquet_that_leads_to_pictures():
    """B7"""
    Path("my/imgs").mkdir(parents=True)
    for index in range(60):
        Path(f"my/imgs/{index}.png").write_bytes(png(index, 5, 5, 3))
    paths = [f"imgs/{index}.png" for index in range(60)]
    assert have(**parquet(images=[{"bytes": None, "path": path} for path in paths], label=NAMES))["used"] == 60
    assert have(**parquet(images=paths, label=NAMES))["used"] == 60
    Path("my/imgs/7.png").unlink()
    refused("row 7", "there is no file", "imgs/7.png", **parquet(images=paths, label=NAMES))
    refused("image_column", "holds no encoded picture", **parquet(images=list(range(60)), label=NAMES))


# ---- B8: the true reason


def test_a_locked_file_is_told_so():
    """B8"""
    entry = arrays(".h5")
    holder = subprocess.Popen(
        [sys.executable, "-c", "import h5py, sys; f = h5py.File('a.h5', 'a'); print(1, flush=True); sys.stdin.read()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with holder:
        holder.stdout.readline()
        told = refused("a.h5 is locked: another process has it open for writing", "close it there", **entry)
    assert "damaged" not in told
    have(**entry)


@pytest.mark.parametrize("kind", ["arrays", "archive", "parquet"])
def test_a_file_without_permission_is_told_so(kind, monkeypatch):
    """B8"""
    if kind == "archive":
        folder()
        shutil.make_archive("a", "zip", "my set")
    entry = {"arrays": arrays, "archive": lambda: {"source": "folder", "path": "a.zip"}}.get(
        kind, lambda: parquet(label=NAMES)
    )()
    name, real = {"arrays": "a.npz", "archive": "a.zip", "parquet": "train-0.parquet"}[kind], Path.open

    def denied(path, *arguments, **options):
        if path.name == name:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path, *arguments, **options)

    monkeypatch.setattr(Path, "open", denied)
    told = refused(f"no permission to read {Path.cwd()}", "chmod u+r ", name, **entry)
    assert "damaged" not in told


def zip_with(method=None, flag=0, name="a.zip"):
    """Write a zip archive whose headers ask for another method, or for a password."""
    with zipfile.ZipFile(name, "w") as archive:
        archive.writestr("cat/0.png", png(0, 5, 5, 3))
    content = bytearray(Path(name).read_bytes())
    for mark, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = content.index(mark) + place
        content[at] |= flag
        if method is not None:
            content[at + 2 : at + 4] = struct.pack("<H", method)
    Path(name).write_bytes(content)
    return {"source": "folder", "path": name}


REASONS = {
    "Deflate64": (lambda: zip_with(9), ("compressed with Deflate64, which is not supported", "7z x", "path")),
    "encrypted": (lambda: zip_with(flag=1), ("encrypted, a password is needed", "unpack it by hand")),
    "a web page": (b"\n<!DOCTYPE html><title>Log in</title>", ("web page", "in a browser")),
    "a pointer of Git LFS": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
        ("Git LFS", "git lfs pull"),
    ),
    "empty": (b"", ("is empty (0 bytes)",)),
    "RAR": (b"Rar!\x1a\x07", ("a RAR archive, which is not supported", "unpack it by hand")),
    "cut short": (b"PK\x03\x04 and no end", ("whose end is missing", "cut short")),
    "parquet": (b"PAR1 x", ("a parquet file", "source: huggingface")),
}


@pytest.mark.parametrize("source", ["arrays", "folder"])
@pytest.mark.parametrize(("content", "words"), REASONS.values(), ids=REASONS)
def test_reasons_are_told_apart(content, words, source):
    """B8"""
    if isinstance(content, bytes):
        Path("a.bin").write_bytes(content)
        entry = {"source": source, "path": "a.bin"}
    else:
        entry = content()
    told = refused("datasets.new: ", *words, **entry)
    assert "damaged" not in told and "again" not in told


# ---- B9: train and test by their names


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (("train", "test"), "train/ as train and test/ as test"),
        (("Training", "Testing"), "Training/ as train and Testing/ as test"),
        (("train", "val"), "train/ as train and val/ as test"),
        (("TRAIN", "Validation"), "TRAIN/ as train and Validation/ as test"),
        (("train", "test", "valid"), "train/ as train and test/ as test"),
    ],
)
@pytest.mark.parametrize("kind", ["folder", "archive with a folder on top"])
def test_train_and_test_are_taken_by_their_names(names, told, kind, capsys):
    """B9"""
    for name, num in zip(names, (10, 4, 3), strict=False):
        folder(f"my set/{name}", num=num)
    path = "my set"
    if kind != "folder":
        path = shutil.make_archive("a", "zip", *([".", "my set"] if "top" in kind else ["my set"]))
    meta = have(source="folder", path=path)
    assert [meta["splits"][split]["num_images"] for split in ("train", "test")] == [20, 8]
    assert f"taken by their names: {told}" in capsys.readouterr().out
    left_out = {"files of valid/, which is neither train nor test": 6} if len(names) == 3 else {}
    assert meta["left_out"] == left_out


# ---- B10: cores, memory, bars


def test_no_more_cores_than_allowed(monkeypatch, tmp_path):
    """B10"""
    monkeypatch.setattr(os, "cpu_count", lambda: 128)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(6)), raising=False)
    monkeypatch.setattr(bars, "_CGROUP_QUOTA", tmp_path / "cpu.max")
    assert bars.num_cpus() == 6
    for text, num in (("max 100000", 6), ("200000 100000", 2), ("50000 100000", 1), ("900000 100000", 6)):
        (tmp_path / "cpu.max").write_text(text)
        assert bars.num_cpus() == num


def test_packing_shows_a_bar(capsys):
    """B10"""
    have(**folder())
    assert "packing new: 100%" in (said := capsys.readouterr().err) and "20/20" in said


# ---- disks that lack something


def refuse(*_, **__):
    raise OSError(errno.EPERM, "Operation not permitted")


def test_a_disk_without_links_modes_and_fsync_of_folders(monkeypatch):
    """C11"""
    real = os.open

    def opened(path, flags, *arguments, **options):
        if Path(path).is_dir():
            raise OSError(errno.EINVAL, "Invalid argument")
        return real(path, flags, *arguments, **options)

    monkeypatch.setattr(os, "open", opened)
    for name in ("link", "symlink", "chmod", "fsync"):
        monkeypatch.setattr(os, name, refuse)
    files.write_text(Path("x/y.txt"), "whole")
    assert Path("x/y.txt").read_text() == "whole" and os.listdir("x") == ["y.txt"]
    files.link_or_copy(Path("x/y.txt"), Path("x/z.txt"))
    assert Path("x/z.txt").read_text() == "whole"
    assert have(**folder())["used"] == 20
    by_hand = {"what": "w", "from": "f", "path": "my set", "files": ["cat", "dog"]}
    entry = {"source": "torchvision", "dataset": "ImageFolder", "test": None, "by_hand": by_hand}
    meta = have(name="other", **entry)
    assert meta["inputs"]["num_files"] == meta["used"] == 20


# ---- sets beside the grid


def foreign_params(sets, datasets):
    grid = {"datasets": ["digits"], "backbones": ["test_vit"], "lambdas": [0.1], "seeds": [0]}
    pretrain = {"epochs": 1, "batch_size": 8, "schedule": {"warmup_epochs": 0}}
    catalogue = {"digits": {"source": "sklearn"}, **datasets}
    params = {"grid": grid, "datasets": catalogue, "pretrain": pretrain, "density": {"sets": sets}}
    Path("params.yaml").write_text(json.dumps(params), encoding="utf-8")
    configure.write_analyses(open_listing("params.yaml"))


def test_foreign_sets_are_packed_and_those_that_cannot_be_had_are_named(monkeypatch, capsys):
    """A1"""
    patches = {"source": "sklearn", "dataset": "sample_images", "patch_px": 64, "test_frac": 0.5}
    datasets = {"mine": folder(), "patches": patches, "gone": {"source": "folder", "path": "nowhere"}, "odd": arrays()}
    foreign_params(["digits", "mine", "gone", "odd", "patches"], datasets)
    monkeypatch.setattr("pipeline.sources.arrays.h5py.is_hdf5", lambda _: 1 / 0)
    Path("data/foreign/old").mkdir(parents=True)
    foreign.main()
    absent = json.loads(Path("data/foreign/absent.json").read_text(encoding="utf-8"))
    assert sorted(absent) == ["gone", "odd"] and "there is nothing at" in absent["gone"]
    assert absent["odd"] == "ZeroDivisionError: division by zero"
    assert sorted(os.listdir("data/foreign")) == ["absent.json", "mine", "patches"]
    assert len(PackedSplit("data/foreign/mine", "train", load_px=8)) == 16
    assert "gone: left out of the analyses: datasets.gone: path: there is nothing" in capsys.readouterr().out
