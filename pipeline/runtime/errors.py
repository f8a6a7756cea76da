"""The one kind of error that a stage shows without a traceback."""

from __future__ import annotations


class UserError(ValueError):
    """Something a person can mend: the message names what is wrong, the value, and the remedy."""


class FetchError(UserError):
    """Data could not be fetched, or are not what they should be; the message says what to do."""


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
