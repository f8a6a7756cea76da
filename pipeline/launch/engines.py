"""The engine that was asked for."""

from __future__ import annotations

from pipeline.launch.on_ray import OnRay
from pipeline.launch.on_slurm import OnSlurm
from pipeline.runtime.errors import UserError


def open_engine(
    name: str,
    *,
    address: str | None,
    gpus: float | None,
    cpus: int,
    retries: int,
    workdir: str | None,
    slurm: list[str],
) -> OnRay | OnSlurm:
    """Connect to an engine; the options are those of `python -m stages.launch`.

    Args:
        name: `ray`, `slurm` or `local`.
        address: of a Ray cluster; None starts one here.
        gpus: of a cell; None means one on Ray where there are any, and none elsewhere.
        cpus: of a cell, at least 1.
        retries: of a cell whose machine died, at least 0.
        workdir: where Ray's nodes share nothing but a DVC remote, their folder for clones; else None.
        slurm: KEY=VALUE for sbatch.

    Raises:
        UserError: an option is wrong, or means nothing to the engine; or the engine does not answer.
    """
    if cpus < 1:
        raise UserError(f"--cpus-per-cell must be >= 1, got {cpus}")
    if (gpus or 0) < 0:
        raise UserError(f"--gpus-per-cell must be >= 0, got {gpus}")
    if retries < 0:
        raise UserError(f"--retries must be >= 0, got {retries}")
    if address and name != "ray":
        raise UserError(f"--address {address} is a Ray cluster's; use --engine ray, got {name}")
    if slurm and name != "slurm":
        raise UserError(f"--slurm is for --engine slurm, got {name}")
    if wrong := [pair for pair in slurm if "=" not in pair]:
        raise UserError(f"--slurm takes KEY=VALUE, got {wrong[0]!r}; e.g. --slurm partition=gpu time=60")
    resources = {"gpus": gpus, "cpus": cpus, "retries": retries}
    if name == "ray":
        return OnRay(address, workdir=workdir, **resources)
    return OnSlurm(name, slurm=dict(pair.split("=", 1) for pair in slurm), **resources)
