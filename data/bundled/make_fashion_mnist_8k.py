"""Make fashion-mnist-8k.npz: the first 600 training and 200 test images of each class of Fashion-MNIST, in file order.

The four IDX files come with Debian's package dataset-fashion-mnist (`apt-get install dataset-fashion-mnist`).
The same input gives the same bytes: members have a fixed date and a fixed order.

    python data/bundled/make_fashion_mnist_8k.py [FOLDER_OF_IDX_FILES]
"""

from __future__ import annotations

import gzip
import io
import sys
import zipfile
from pathlib import Path

import numpy as np

CLASSES = ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"]
PER_CLASS = {"train": 600, "test": 200}
PREFIX = {"train": "train", "test": "t10k"}


def read_idx(path: Path) -> np.ndarray:
    """Read a gzipped IDX file of bytes: magic whose last byte is the rank, sizes (big-endian), data."""
    raw = gzip.decompress(path.read_bytes())
    rank = raw[3]
    shape = np.frombuffer(raw, ">u4", count=rank, offset=4)
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * rank).reshape(shape)


def first_of_each_class(labels: np.ndarray, count: int) -> np.ndarray:
    """Return the indices, ascending, of the first `count` images of every class."""
    return np.sort(np.concatenate([np.flatnonzero(labels == c)[:count] for c in range(len(CLASSES))]))


def main() -> None:
    """Write fashion-mnist-8k.npz beside this script."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "/usr/share/datasets/fashion-mnist")
    arrays = {}
    for split, prefix in PREFIX.items():
        labels = read_idx(folder / f"{prefix}-labels-idx1-ubyte.gz")
        keep = first_of_each_class(labels, PER_CLASS[split])
        arrays[f"x_{split}"] = read_idx(folder / f"{prefix}-images-idx3-ubyte.gz")[keep]
        arrays[f"y_{split}"] = labels[keep].astype(np.int64)
    arrays["classes"] = np.array(CLASSES)

    out = Path(__file__).with_name("fashion-mnist-8k.npz")
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for key, array in arrays.items():
            member = io.BytesIO()
            np.lib.format.write_array(member, array, allow_pickle=False)
            entry = zipfile.ZipInfo(f"{key}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            archive.writestr(entry, member.getvalue(), compress_type=zipfile.ZIP_DEFLATED, compresslevel=9)
    print(f"{out}: {out.stat().st_size} bytes, " + ", ".join(f"{k} {a.shape}" for k, a in arrays.items()))


if __name__ == "__main__":
    main()
