"""The one kind of error that a stage shows without a traceback."""

from __future__ import annotations


class UserError(ValueError):
    """Something a person can mend: the message names what is wrong, the value, and the remedy."""
