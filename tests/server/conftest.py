"""Fixtures of the tests of pages: one browser for all of them."""

from __future__ import annotations

import browsers
import pytest


@pytest.fixture(scope="session")
def browser():
    with browsers.start() as started:
        yield started
