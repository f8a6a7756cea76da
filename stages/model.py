"""Fetch one frozen model of the catalogue to models/<name>/: `python -m stages.model NAME [params.yaml]`.

Without NAME the DVC stage that runs it says which.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path

from pipeline.runtime.errors import UserError, did_you_mean
from pipeline.runtime.project import root_params, stage_key
from pipeline.schema.parameters import Model
from pipeline.sources.inputs import MODELS, link_model
from pipeline.sources.transfer import TIMEOUT_S
from pipeline.zoo.pretrained import make_model
from stages import run


def main(name: str = "", params_path: str | None = None) -> None:
    name, catalogue = name or stage_key(), Model.catalogue(params_path or root_params())
    if name not in catalogue:
        raise UserError(f"unknown model {name!r}{did_you_mean(name, catalogue)}; add it under models:")
    if os.path.lexists(MODELS / name):  # DVC watches it
        link_model(name, catalogue[name].local_path)
    os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"  # whatever timm asks for: no pickled code is run
    socket.setdefaulttimeout(max(TIMEOUT_S))  # torch.hub would wait for ever for a silent server
    model = make_model(name, Path("models") / name, catalogue[name])
    print(f"{name}: {model['backbone']}, {model['num_params']:,} parameters, embedding {model['embed_dim']}")
    print(f"  {model['size_px']} px, from {model['origin']}")


if __name__ == "__main__":
    run(main)
