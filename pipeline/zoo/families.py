"""The zoo by rule: every timm architecture of some families up to a size.

The rule is that of figure 9 of the paper: eight families, up to 20M parameters. Families go by name, not by timm's
modules: the figure has resnet32ts (module byobnet) and vit_pe_core_tiny_patch16_384 (module eva).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from pipeline.models.backbones import TIMM_VERSION, count_params, known_backbones
from pipeline.runtime.bars import bar
from pipeline.runtime.errors import UserError, did_you_mean
from pipeline.runtime.files import write_text

# A name belongs to the family whose prefix it has: version and block variants (convnextv2, resnetblur, maxxvitv2) do,
# other designs around the same word (mobilevit, seresnet, tf_efficientnet) and timm's tiny test_ models do not.
FAMILIES = {
    "convnext": ("convnext",),
    "efficientnet": ("efficientnet",),
    "inception": ("inception",),
    "levit": ("levit",),
    "maxvit": ("maxvit",),
    "maxxvit": ("maxxvit",),
    "resnet": ("resnet", "resnext"),  # figure 9 has resnext26ts and no family resnext
    "vit": ("vit_",),  # not vitamin
}


class ZooEntry(NamedTuple):
    """One architecture of the zoo."""

    name: str
    family: str
    num_params: int


def family_of(name: str) -> str:
    """Return the family of an architecture; "" if it is in none."""
    return next((family for family, prefixes in FAMILIES.items() if name.startswith(prefixes)), "")


def expand(families: Sequence[str], max_params: float) -> list[ZooEntry]:
    """List every architecture of the installed timm that follows the rule, by family and name.

    Args:
        families: keys of `FAMILIES`.
        max_params: largest number of parameters, at the architecture's own input size and without a classifier.

    Raises:
        UserError: an unknown family, or a rule that nothing follows.
    """
    for family in families:
        if family not in FAMILIES:
            raise UserError(f"unknown family {family!r} in grid.backbones.families{did_you_mean(family, FAMILIES)}")
    named = [(name, family_of(name)) for name in known_backbones() if family_of(name) in families]
    shown = bar("counting parameters", len(named), unit="architecture", iterable=named)
    found = [ZooEntry(name, family, count_params(name)) for name, family in shown]
    small = sorted((entry for entry in found if entry.num_params <= max_params), key=lambda e: (e.family, e.name))
    if not small:
        smallest = min(found, key=lambda entry: entry.num_params)
        raise UserError(
            f"grid.backbones.max_params must be >= {smallest.num_params} ({smallest.name}, the smallest of "
            f"{', '.join(families)}), got {max_params:g}"
        )
    return small


def write_list(path: Path, entries: Iterable[ZooEntry]) -> None:
    """Write one name a line, with family and parameters as a comment."""
    entries = list(entries)
    lines = [f"# {len(entries)} architectures of timm {TIMM_VERSION}; parameters without a classifier\n"]
    lines += [f"{entry.name:<34} # {entry.family}, {entry.num_params:,}\n" for entry in entries]
    write_text(path, "".join(lines))
