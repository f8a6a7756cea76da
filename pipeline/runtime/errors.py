"""The one kind of error that a stage shows without a traceback, and what its message says of an unknown name."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(ValueError):
    """Something a person can mend: the message names what is wrong, the value, and the remedy."""


class FetchError(UserError):
    """Data could not be fetched, or are not what they should be; the message says what to do."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return `; did you mean 'x'? known: ...` for an unknown name (the nearest match and at most 40 names)."""
    names = sorted(known)
    near = get_close_matches(name, names, n=1)
    guess = f"; did you mean {near[0]!r}?" if near else ";"
    listing = ", ".join(names[:40]) + (f", ... ({len(names)} in all)" if len(names) > 40 else "")
    return f"{guess} known: {listing or 'none'}"


def together(faults: list[str], *, shown: int = 10) -> str:
    """Return the message of one fault as it is, of several as a list: the first ones and how many there are."""
    if len(faults) == 1:
        return faults[0]
    more = f"\n  - ... and {len(faults) - shown} more" if len(faults) > shown else ""
    return f"{len(faults)} faults:\n" + "\n".join(f"  - {fault}" for fault in faults[:shown]) + more


class NonFiniteLossError(UserError):
    """The loss or its gradient became NaN or infinite; the message names step and images."""


class Interrupted(KeyboardInterrupt):
    """The process was asked to end and did so at a moment from which it can go on.

    Attributes:
        signum: the signal; a program ends with 128 + signum, as a shell reports it.
    """

    def __init__(self, signum: int, message: str) -> None:
        """Take the signal and what to tell."""
        super().__init__(message)
        self.signum = signum


class ResultError(UserError):
    """A result file is missing or broken; the message names it and the command that makes it."""
