"""Write a cell's weights as a model folder for timm: `python -m stages.export CELL --to DIR [--push-to-hub REPO]`.

CELL is the key of a finished cell, or runs/<grid>/<cell>. DIR gets config.json, model.safetensors and a model card;
then `timm.create_model("local-dir:DIR", pretrained=True)` gives the probe's features.
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path

from pipeline.publish.finished_cell import find_cell, read_cell
from pipeline.publish.model_folder import check_repository, push, write_folder
from stages import run


def main(*arguments: str, here: Path | None = None) -> None:
    asked = parse(arguments)
    if asked.push_to_hub:
        check_repository(asked.push_to_hub)
    folder = (here or Path.cwd()) / asked.to.expanduser()
    write_folder(read_cell(find_cell(asked.cell)), folder, licence=asked.license, repository=asked.push_to_hub)
    print(f'{folder}: timm.create_model("local-dir:{folder}", pretrained=True)')
    if asked.push_to_hub:
        address = push(folder, asked.push_to_hub, private=asked.private)
        print(f'{address}: timm.create_model("hf-hub:{asked.push_to_hub}", pretrained=True)')


def parse(arguments: tuple[str, ...]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m stages.export", description=sys.modules[__name__].__doc__)
    parser.add_argument("cell", metavar="CELL")
    parser.add_argument(
        "--to", type=Path, required=True, metavar="DIR", help="a folder that is not there yet, or empty"
    )
    parser.add_argument("--push-to-hub", metavar="REPO", help="repository of the Hugging Face hub, as me/my-model")
    parser.add_argument("--private", action="store_true", help="a repository that is made now is seen by you alone")
    parser.add_argument("--license", default="mit", metavar="ID", help="of the weights; default: mit, as the code")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    run(partial(main, here=Path.cwd()))  # before `run` goes to the project of the cell
