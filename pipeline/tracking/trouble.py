"""MLflow and SQLite errors as one-line messages with a remedy."""

from __future__ import annotations

import re
import sqlite3
from pathlib import Path
from urllib.parse import urlsplit

from pipeline.runtime.errors import UserError

# What SQLite, MLflow or the system says: what to do about it.
REMEDIES = {
    "locked": "let the process that holds it end, or end it",
    "readonly": "make it and its folder writable",
    "read-only": "make it and its folder writable",
    "denied": "make it and its folder writable",
    "unable to open": "it must be a file, in a folder that exists and is writable",
    "no such file": "it must be a file, in a folder that exists and is writable",
    "is full": "free some space",
    "no space": "free some space",
    "i/o error": "look whether the disk is full or broken",
    "database schema": "back it up and run: mlflow db upgrade sqlite:///mlflow.db",
}
REMAKE = "move it away: `python -m stages.sync` writes a new one from the results on disk"


class StoreError(UserError):
    """The tracking store cannot be used; the message says why and what to do."""


def shown(where: str | Path) -> str:
    """Return the place of a store without the name and password that its address may hold."""
    if isinstance(where, Path):
        return str(where)
    parts = urlsplit(where)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="").geturl()


def explain(where: str | Path, error: BaseException) -> str:
    """Say in one line what ails a store and what to do about it, in the words of SQLite, the system or the server."""
    if isinstance(where, str):
        return _explain_server(where, error)
    cause = error
    while cause and not isinstance(cause, sqlite3.Error | OSError):
        cause = cause.__cause__ or cause.__context__
    cause = cause or error
    said = (getattr(cause, "strerror", None) or str(cause) or type(cause).__name__).splitlines()[0]
    remedy = next((remedy for words, remedy in REMEDIES.items() if words in said.lower()), REMAKE)
    return f"{getattr(cause, 'filename', None) or where} cannot be used: {said}; {remedy}"


def _explain_server(where: str, error: BaseException) -> str:
    told = str(error).replace(where, shown(where))
    system = re.search(r"\[Errno -?\d+\] ([^'\")]+)", told)
    status = re.search(r"error code (\d+)", told)
    said = system[1] if system else f"it answers with HTTP status {status[1]}" if status else told.splitlines()[0]
    if "timed out" in told or "timeout" in told:
        said = "timed out"
    remedy = "look whether an MLflow server answers there, or unset MLFLOW_TRACKING_URI to use the clone's mlflow.db"
    if re.search(r"\b(401|403|[Aa]uthenticat|[Pp]ermission)", told):
        remedy = "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
    if isinstance(error, ImportError):
        remedy = "install it into .venv with pip"
    return f"{shown(where)} cannot be used: {said[:200]}; {remedy}"
