"""One thin program per DVC stage: parse, load the configuration, call the library, write the outputs."""

from __future__ import annotations

import sys
from collections.abc import Callable

from pipeline.errors import UserError


def run(main: Callable[..., int | None]) -> None:
    """Call a stage with the command line's arguments; what a person can mend is shown without a traceback."""
    try:
        code = main(*sys.argv[1:])
    except UserError as error:
        sys.exit(f"ERROR: {error}")
    sys.exit(code or 0)
