"""Trained weights as MLflow shows them: the file itself if it is small, where it is and how to load it, its tensors."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from pipeline.runtime.files import digest_file
from pipeline.schema.resolved import PretrainRun

LOGGED_BYTES = 32_000_000
"""Larger weights stay in their run's folder, and MLflow has their digest: a copy of every one would double the disk."""


def weight_artifacts(run: PretrainRun) -> dict[str, Any]:
    """Return what the run of a cell shows of its backbone, {artifact: JSON value, text or file}; none without one."""
    path = Path(run.out) / "backbone.safetensors"
    if not path.exists():
        return {}
    tensors, num_bytes = read_header(path), path.stat().st_size
    logged = num_bytes <= LOGGED_BYTES
    reference = {
        "file": str(path),
        "bytes": num_bytes,
        "md5": digest_file(path, "md5"),  # as DVC records it
        "logged": logged,
        "get": f"artifact {path.name} of this run" if logged else f"dvc checkout {path.parent}",
        "load": f"network = timm.create_model({run.backbone!r}, num_classes=0, **{run.backbone_kwargs!r}); "
        f"network.load_state_dict(safetensors.torch.load_file({path.name!r}))",
    }
    shown = {"weights.json": reference, "model_summary.txt": summary(run, tensors, num_bytes)}
    return shown | ({path.name: path} if logged else {})


def read_header(path: Path) -> dict[str, dict[str, Any]]:
    """Return {tensor: {dtype, shape, ...}} of a safetensors file, without its numbers and without torch."""
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return {name: told for name, told in header.items() if name != "__metadata__"}


def summary(run: PretrainRun, tensors: dict[str, dict[str, Any]], num_bytes: int) -> str:
    """Write the tensors of a backbone as a table: name, shape, type, numbers."""
    counts = {name: math.prod(told["shape"]) for name, told in tensors.items()}
    width = max(map(len, tensors), default=0)
    lines = [
        f"{run.backbone} {json.dumps(run.backbone_kwargs)}: embeddings of {run.embed_dim} numbers",
        f"{sum(counts.values()):,} numbers in {len(tensors)} tensors, {num_bytes / 1e6:.2f} MB (buffers among them)",
        "",
    ]
    for name, told in tensors.items():
        shape = "x".join(map(str, told["shape"])) or "scalar"
        lines.append(f"{name:<{width}}  {shape:>16}  {told['dtype']:>4}  {counts[name]:>12,}")
    return "\n".join(lines) + "\n"
