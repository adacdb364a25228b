"""Shards for tests of reading and of fetching them."""

import tempfile
from pathlib import Path

import pytest
from data.shard_sets import make_folder, write_shards

from qmnv3.data import shard_files
from qmnv3.data.folder import ImageFolder


@pytest.fixture
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Indices and fetched shards are kept in the test's folders; a failed fetch is tried again at once."""
    (tmp_path / "fetched").mkdir()
    monkeypatch.setenv("QMNV3_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "fetched"))
    monkeypatch.setattr(shard_files, "_FIRST_PAUSE_S", 0.0)
    return tmp_path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> ImageFolder:
    return make_folder(tmp_path_factory.mktemp("photos"))


@pytest.fixture
def tars(tmp_path: Path, folder: ImageFolder) -> list[Path]:
    """Nine shards of three images, the last of two."""
    return write_shards(folder, tmp_path / "shards", per_shard=3)
