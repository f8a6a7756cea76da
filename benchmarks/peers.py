"""An environment for peers under .scratch/, apart from the project's: their requirements never touch ours."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import torch

ROOT = Path(__file__).parents[1]


def peer_python(*requirements: str) -> Path:
    """Return a Python that imports `requirements` and, through a .pth file, every package of this environment.

    Sharing saves gigabytes and times all methods on the same torch. Requirements that do not install are left out
    with a message; the caller shows them as missing.
    """
    folder = ROOT / ".scratch" / "peers"
    python = folder / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=True)
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        shared = folder / "lib" / version / "site-packages" / "project.pth"
        shared.write_text(sysconfig.get_paths()["purelib"] + "\n", encoding="utf-8")
    for requirement in requirements:
        install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", requirement]
        # Their own torch would be another 5 GB, and another torch.
        same_torch = f"torch=={torch.__version__.split('+')[0]}"
        if subprocess.run([*install, same_torch], cwd=folder, check=False).returncode:
            print(f"{requirement} does not install beside {same_torch}; its rows will say so", file=sys.stderr)
    return python
