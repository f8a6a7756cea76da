"""Caption numbers of the gallery, read by index.html."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

FACTS = "facts.json"


def shares(run: Mapping[str, Any], number: str = "share_right") -> str:
    """Say a number of each description of the images, in percent.

    Args:
        run: facts of `exhibit.Exhibit`.
        number: share_right, map_agreement or embedding_agreement.
    """
    return ", ".join(f"{name} {100 * space[number]:.1f} %" for name, space in run["spaces"].items())
