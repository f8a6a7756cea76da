"""Check a parameter file whole, in a second: `python -m stages.check [params.yaml]`; `make repro` begins with it.

What only timm knows, the backbones' names and sizes, is left to `python -m stages.configure`, the first stage. Fails
also while a launch is at work here, whose cells `dvc repro` would run a second time.
"""

from __future__ import annotations

from pipeline.catalogue.validation import ParamsError
from pipeline.launch.stage_program import LAUNCH, refuse_company
from pipeline.settings.grid import open_listing
from pipeline.sources.inputs import absent_inputs
from stages import run


def main(params_path: str = "params.yaml") -> None:
    listing = open_listing(params_path)
    params = listing.params
    if problems := absent_inputs({name: params.datasets[name] for name in params.grid.datasets}):
        raise ParamsError(params_path, problems)
    print(f"{params_path}: {len(listing.cells)} cells of grid {listing.grid!r} are valid", flush=True)
    refuse_company(LAUNCH, "run: make repro")


if __name__ == "__main__":
    run(main)
