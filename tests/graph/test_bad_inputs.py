"""Claims about what people get wrong:

1. Each of at least 60 distinct bad inputs ends its stage with exit status 1 and one message, without a traceback, that
   names what is wrong, the value and the remedy; and it does so at once, before anything is trained.
2. What only looks odd is accepted: grey, transparent, palette, 16-bit, CMYK and animated pictures, EXIF orientation,
   Unicode and spaces in names, labels with gaps; copies across the splits are counted; small images are told.
3. A signal ends a stage with its message and the status that shells know; a mistake of the program keeps its traceback.
"""

from __future__ import annotations

import errno
import hashlib
import json
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from bad_data import COLOUR, TEST, arrays
from bad_machine import CELL, refused_before_training
from bad_place import INPUTS, Place
from packed_pictures import encode
from PIL import Image
from source_helpers import png

from pipeline.data import preflight
from pipeline.data.packed import PackedSplit, read_meta
from pipeline.runtime.errors import Interrupted
from pipeline.schema.resolved import PretrainRun, ProbeRun
from stages import configure, download, pretrain, run

pytestmark = pytest.mark.seconds

MAX_S = 60.0  # of a refusal: no minutes of work come first, and no machine is so busy


@pytest.fixture
def place(tmp_path, monkeypatch, capsys, request):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pretrain.loop, "pretrain", lambda *_, **__: pytest.fail("it was trained first"))
    return Place(tmp_path, monkeypatch, capsys, request)


# ---- 1. Bad inputs


@pytest.mark.parametrize("name", INPUTS)
def test_bad_input_is_refused(place, name):
    make, words = INPUTS[name]
    attempt = make(place)
    ended = place.run(*attempt)
    assert ended.status == 1 and re.search("^ERROR: ", ended.told, re.MULTILINE)
    assert "Traceback" not in ended.told
    assert [word for word in words if word not in ended.told] == [], ended.told
    assert ended.seconds < MAX_S
    assert "s3cret" not in ended.told


def test_number_of_bad_inputs(capsys):
    said = {words for _, words in INPUTS.values()}
    assert len(INPUTS) >= 60 and len(said) >= 60
    with capsys.disabled():
        print(f"\n{len(INPUTS)} distinct bad inputs, each refused with its own message")


def test_all_problems_of_a_cell_are_told_at_once(place):
    change = {"pretrain": {"batch_size": 41}, "probe": {"knn": {"k": 50}, "few_shot": {"shots": [11, 12]}}}
    ended = place.run(*refused_before_training(change, per_class=(10, 1, 1))(place))
    assert "5 problems" in ended.told and ended.told.count("\n  - ") == 5
    run = ProbeRun.read(CELL / "probe.json")
    with pytest.raises(preflight.PreflightError, match="4 problems"):
        preflight.check_probe(run, read_meta("data/digits"))


def test_a_probe_is_refused_whose_objective_is_another_file_now(place):
    refused_before_training({})(place)
    run = ProbeRun.read(CELL / "probe.json")
    own = {"objective": "objectives.mine.Mine", "objective_files": {"objectives/mine.py": "0" * 64}}
    changed = run.model_copy(update={"trained": run.trained.model_copy(update=own)})
    with pytest.raises(preflight.PreflightError, match=r"objectives.mine.Mine has changed since; run: dvc repro"):
        preflight.check_probe(changed, read_meta("data/digits"))


# ---- 2. What only looks odd


def odd_pictures() -> Iterator[tuple[str, bytes]]:
    colour = Image.fromarray(COLOUR)
    turned = colour.getexif()
    turned[0x0112] = 6
    deep = Image.fromarray(np.arange(600, dtype=np.uint16).reshape(30, 20) * 100)
    yield "grey.png", encode(colour.convert("L"), "PNG")
    yield "bits.png", encode(colour.convert("1"), "PNG")
    yield "transparent.png", encode(colour.convert("RGBA"), "PNG")
    yield "grey and transparent.png", encode(colour.convert("LA"), "PNG")
    yield "palette.gif", encode(colour.quantize(8), "GIF")
    yield "transparent palette.png", encode(colour.quantize(8), "PNG", transparency=0)
    yield "sixteen bits.png", encode(deep, "PNG")
    yield "print.jpg", encode(colour.convert("CMYK"), "JPEG")
    yield (
        "animation.gif",
        encode(colour.quantize(8), "GIF", save_all=True, append_images=[colour.rotate(90).quantize(8)]),
    )
    yield "animation.webp", encode(colour, "WEBP", save_all=True, append_images=[colour.rotate(90)])
    yield "turned.jpg", encode(colour, "JPEG", exif=turned)
    yield "UPPER CASE.JPEG", encode(colour, "JPEG")
    yield "scan.tiff", encode(colour, "TIFF")
    yield "größe ☃ n° 1.bmp", encode(colour, "BMP")
    yield "speck.png", png(0, 1, 1)


def test_odd_pictures_and_names_are_accepted(place):
    names = ["köt ten", "собаки", "$(id)", "a;b", "'quoted'"]
    for label in names:
        for name, content in odd_pictures():
            path = Path("my pictures", label, "deep er", name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    place.set_of(source="folder", path="my pictures")
    assert place.run(download, "new").status == 0
    meta = read_meta("data/new")
    assert sorted(meta["classes"]) == sorted(names) and meta["channels"] == 3
    assert sum(split["num_images"] for split in meta["splits"].values()) == 15 * len(names)
    for change in ("16 bits to 8", "CMYK to RGB", "turned as its EXIF says", "transparency put on white"):
        assert meta["changes"][change] >= len(names)
    assert meta["changes"]["first frame of an animation"] == 2 * len(names)
    for split in ("train", "test"):
        images = PackedSplit("data/new", split, load_px=16)
        assert all(images[index][0].shape[0] == 3 for index in range(len(images)))


def test_copies_across_the_splits_are_counted(place):
    xt = np.random.default_rng(0).integers(0, 256, (12, 5, 5), dtype=np.uint8)[:6].copy()
    xt[5] += 1
    ended = place.run(*arrays(place, TEST, xt=xt, yt=np.arange(6) % 3))
    assert ended.status == 0
    assert "warning: new: 5 of 6 test images are also training images; they flatter the scores" in ended.told
    assert read_meta("data/new")["num_test_images_in_train"] == 5


def test_small_images_and_small_classes_are_told_but_accepted(place, capsys):
    change = {"pretrain": {"batch_size": 8}, "probe": {"knn": {"k": 3}, "few_shot": {"shots": [1, 5]}}}
    refused_before_training(change, per_class=(10, 10, 2))(place)
    meta = read_meta("data/digits")
    capsys.readouterr()
    preflight.check(PretrainRun.read(CELL / "pretrain.json"), meta)
    reading, small, uneven = capsys.readouterr().err.splitlines()
    assert "one size" in reading
    assert small.startswith(
        "note: pretrain.views.global_px 32: the images of 'digits' have at most 8 px and are enlarged"
    )
    assert uneven.startswith("warning: probe.few_shot.shots 5: class 'class 2' of 'digits' has fewer training images")
    assert "(at least 2); all of them are taken" in uneven


def test_an_unwanted_address_is_kept_out_of_the_data(place):
    """What stands after a question mark may be somebody's, even where it does not look like a secret."""
    server = place.serve()
    arrays(place)
    body = Path("a.npz").read_bytes()
    server.files["/a.npz"] = body
    url = f"{server.url}/a.npz?download=mine"
    place.set_of(source="arrays", url=url, sha256=hashlib.sha256(body).hexdigest())
    assert place.run(download, "new").status == 0
    assert "mine" not in Path("data/new/meta.json").read_text(encoding="utf-8")
    assert json.loads(Path("data/new/meta.json").read_text())["source"]["url"] == f"{server.url}/a.npz"


# ---- 3. Signals and mistakes


@pytest.mark.parametrize(
    ("error", "status", "told"),
    [
        (Interrupted(signal.SIGTERM, "a state is kept; run it again"), 143, "a state is kept; run it again\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
    ],
)
def test_signals_end_with_the_status_that_shells_know(place, monkeypatch, error, status, told):
    def main() -> None:
        raise error

    monkeypatch.setattr(configure, "main", main)
    ended = place.run(configure)
    assert (ended.status, ended.told) == (status, told)


def test_a_mistake_of_the_program_keeps_its_traceback(monkeypatch):
    def main() -> None:
        raise RuntimeError("shapes differ")

    monkeypatch.setattr(sys, "argv", ["x"])
    with pytest.raises(RuntimeError):
        run(main)


def test_a_full_disk_is_told_though_a_library_hides_it(place, monkeypatch):
    def main() -> None:
        try:
            raise OSError(errno.ENOSPC, "No space left on device", "runs/x.pt")
        except OSError:
            raise RuntimeError("unexpected pos 64 vs 0") from None

    monkeypatch.setattr(configure, "main", main)
    ended = place.run(configure)
    assert ended.status == 1 and "cannot write runs/x.pt: No space left on device; free some space" in ended.told
