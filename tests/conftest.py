"""Fixtures shared by all tests."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def data_pack() -> Path:
    """Root of the data pack (real images and weights); the test skips without it."""
    root = os.environ.get("QMNV3_DATA")
    if not root:
        pytest.skip("QMNV3_DATA is not set: the data pack with real images and weights is not here")
    return Path(root).resolve()
