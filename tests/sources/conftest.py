"""A loopback server for the tests of sources, which do not wait between two attempts."""

from __future__ import annotations

import pytest
from source_helpers import serving

from pipeline.sources import transfer


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(transfer.time, "sleep", lambda _: None)
    with serving() as running:
        yield running
