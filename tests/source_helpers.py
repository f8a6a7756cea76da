"""What the tests of sources share: a loopback server, small pictures, and how to read a source or run its stage."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import h5py
import numpy as np
from PIL import Image
from pydantic import TypeAdapter

from pipeline.catalogue.datasets import Dataset
from pipeline.sources.open import open_source

ROOT = Path(__file__).parents[1]


def entry(**fields):
    return TypeAdapter(Dataset).validate_python(fields)


def read(tmp_path, name="set", **fields):
    """Open a source and return (classes, {split: [(content, label, where)]})."""
    source = open_source(name, entry(**fields), tmp_path / "scratch")
    return source.classes, {split: list(pictures) for split, pictures in source.splits.items()}


def labels_of(pictures):
    return [picture.label for picture in pictures]


def png(seed, *shape):
    out = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)).save(out, "PNG")
    return out.getvalue()


def tar(members, mode="w"):
    """Return an archive of members {name: content}."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


def write_arrays(path, **arrays):
    """Write an npz or an HDF5 file."""
    path = Path(path)
    if path.suffix == ".npz":
        np.savez(path, **arrays)
        return
    path.unlink(missing_ok=True)  # the exception of a refusal may keep the last one open
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file[name] = np.char.encode(array, "utf-8") if array.dtype.kind == "U" else array


class Files(ThreadingHTTPServer):
    """Serves `files` (path to bytes) with ranges; cuts the first `num_cuts` transfers in the middle."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.num_cuts, self.status, self.seen, self.etag = {}, 0, {}, [], '"1"'
        self.change = lambda num_seen: None  # is called before every answer
        self.url = f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request, client_address):
        pass  # cut connections are meant


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_GET(self):
        path = unquote(urlsplit(self.path).path)
        self.server.change(len(self.server.seen))
        self.server.seen.append((path, self.headers.get("Range"), self.headers.get("Authorization")))
        status, extra = self.server.status.get(path, (200 if path in self.server.files else 404, {}))
        body = self.server.files.get(path, b"")
        same = not self.server.etag or self.headers.get("If-Range") in (None, self.server.etag)
        if (wanted := self.headers.get("Range")) and status == 200 and same:
            start, status = int(wanted.removeprefix("bytes=").rstrip("-")), 206
            extra = {"Content-Range": f"bytes {start}-{len(body) - 1}/{len(body)}"}
            body = body[start:]
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), "ETag": self.server.etag, **extra}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.server.num_cuts and not path.startswith("/api"):
            self.server.num_cuts -= 1
            body = body[: len(body) // 2]
        self.wfile.write(body)


@contextmanager
def serving() -> Iterator[Files]:
    with Files() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def run_stage(tmp_path, name, params, **env):
    (tmp_path / "params.yaml").write_text(json.dumps({"datasets": params}))  # JSON is YAML
    command = [sys.executable, "-m", "stages.download", name]
    return subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT), **env}
    )
