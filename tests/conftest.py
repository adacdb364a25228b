"""Fixtures shared by all tests."""

import os
import signal
import zlib
from pathlib import Path
from typing import Any

import pytest
import torch

# A shell without job control has what it starts in the background ignore Ctrl-C, and all that that starts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_fixture_setup(fixturedef: pytest.FixtureDef[Any]) -> None:
    """Each fixture draws the same random numbers in every run, whatever ran before it."""
    torch.manual_seed(zlib.crc32(fixturedef.argname.encode()))


def pytest_runtest_call(item: pytest.Item) -> None:
    """So does each test."""
    torch.manual_seed(zlib.crc32(item.nodeid.encode()))


@pytest.fixture(scope="session")
def data_pack() -> Path:
    """Root of the data pack (real images and weights); the test skips without it."""
    root = os.environ.get("QMNV3_DATA")
    if not root:
        pytest.skip("QMNV3_DATA is not set: the data pack with real images and weights is not here")
    return Path(root).resolve()
