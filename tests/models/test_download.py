"""Fetching from a local HTTP server: whole, cut off, tampered with, refused."""

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import qmnv3.models.releases as releases
from qmnv3.cli.weights import fetch_weights, list_weights
from qmnv3.errors import WeightsError
from qmnv3.models.download import cache_dir, fetch
from qmnv3.models.releases import RELEASES, Release, find_release

CONTENT = bytes(range(256)) * 2000
SHA = hashlib.sha256(CONTENT).hexdigest()[:8]


@dataclass
class Server:
    """What the server serves, and the Range header of every request it got."""

    url: str = ""
    content: bytes = CONTENT
    ranges: bool = True
    cut_after: int | None = None
    requested: list[str | None] = field(default_factory=list)


def _handler(state: Server) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = self.headers.get("Range")
            state.requested.append(asked)
            if "missing" in self.path:
                self.send_error(404)
                return
            start = int(re.findall(r"\d+", asked)[0]) if asked and state.ranges else 0
            if start >= len(state.content):
                self.send_error(416)
                return
            body = state.content[start:]
            self.send_response(206 if start else 200)
            if start:
                size = len(state.content)
                self.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: state.cut_after])

        def log_message(self, *_: object) -> None:
            pass

    return Handler


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    state = Server()
    http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(state))
    state.url = f"http://127.0.0.1:{http.server_port}"
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()
    yield state
    http.shutdown()
    http.server_close()
    thread.join()


def _release(server: Server, name: str = "net") -> Release:
    return Release("test", "small", f"{server.url}/{name}-{SHA}.pth", SHA, 0.5, 67.7, 256)


def _fetched(path: Path, folder: Path) -> bool:
    return path.read_bytes() == CONTENT and list(folder.iterdir()) == [path]


def test_whole_file_with_progress_then_from_the_cache(server: Server, tmp_path: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    path = fetch(_release(server), tmp_path, lambda done, total: seen.append((done, total)))
    assert _fetched(path, tmp_path)
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert fetch(_release(server), tmp_path) == path
    assert server.requested == [None], "the second fetch asks nothing"


def test_truncated_download_is_kept_and_resumed(server: Server, tmp_path: Path) -> None:
    server.cut_after = 100_000
    with pytest.raises(WeightsError, match="100000 bytes are kept, run again to go on"):
        fetch(_release(server), tmp_path)
    assert [p.suffix for p in tmp_path.iterdir()] == [".part"]
    server.cut_after = None
    assert _fetched(fetch(_release(server), tmp_path), tmp_path)
    assert server.requested == [None, "bytes=100000-"]


def test_server_without_ranges_starts_over(server: Server, tmp_path: Path) -> None:
    server.cut_after, server.ranges = 100_000, False
    with pytest.raises(WeightsError, match="run again"):
        fetch(_release(server), tmp_path)
    server.cut_after = None
    assert _fetched(fetch(_release(server), tmp_path), tmp_path)


def test_complete_part_is_only_checked(server: Server, tmp_path: Path) -> None:
    (tmp_path / f"net-{SHA}.pth.part").write_bytes(CONTENT)
    assert _fetched(fetch(_release(server), tmp_path), tmp_path)


def test_tampered_file_is_refused_and_removed(server: Server, tmp_path: Path) -> None:
    server.content = CONTENT[:-1] + b"\0"
    with pytest.raises(WeightsError, match=f"published is {SHA}; the file was removed"):
        fetch(_release(server), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_tampered_part_is_refused_and_removed(server: Server, tmp_path: Path) -> None:
    (tmp_path / f"net-{SHA}.pth.part").write_bytes(b"x" * 1000)
    with pytest.raises(WeightsError, match="the file was removed"):
        fetch(_release(server), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_damaged_cached_file_is_fetched_again(server: Server, tmp_path: Path) -> None:
    (tmp_path / f"net-{SHA}.pth").write_bytes(b"damaged")
    assert _fetched(fetch(_release(server), tmp_path), tmp_path)


def test_404_is_named(server: Server, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="the server answered 404"):
        fetch(_release(server, "missing"), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_connection_refused_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    # Port 1 (tcpmux) is not served.
    with pytest.raises(WeightsError, match=r"http://127.0.0.1:1/x-.*0 bytes are kept") as caught:
        fetch(Release("t", "small", f"http://127.0.0.1:1/x-{SHA}.pth", SHA, 0.5, 67.7, 256), tmp_path)
    assert "\n" not in str(caught.value)


def test_cache_folder_by_option_environment_and_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QMNV3_CACHE", str(tmp_path / "environment"))
    assert cache_dir(tmp_path / "option") == tmp_path / "option"
    assert cache_dir() == tmp_path / "environment"
    monkeypatch.delenv("QMNV3_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_dir() == tmp_path / "qmnv3" / "weights"


def test_catalogue_names_carry_their_checksums() -> None:
    assert len({release.name for release in RELEASES}) == len(RELEASES) == 5
    for release in RELEASES:
        assert re.fullmatch(r"[0-9a-f]{8}", release.sha256_prefix)
        assert release.file_name.endswith(f"-{release.sha256_prefix}.pth")
    with pytest.raises(WeightsError, match=r"known: large-imagenet1k-v1, .*v2-imagenet1k-v2"):
        find_release("large")


def test_commands_list_and_fetch(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    list_weights()
    shown = capsys.readouterr().out
    for release in RELEASES:
        assert release.url in shown
    assert "BSD-3-Clause" in shown
    monkeypatch.setattr(releases, "RELEASES", (_release(server),))
    fetch_weights("test", cache=tmp_path)
    assert capsys.readouterr().out == f"{tmp_path / f'net-{SHA}.pth'}\n"


def test_list_prints_and_writes_every_release(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    list_weights(tmp_path / "releases.json")
    listed = json.loads((tmp_path / "releases.json").read_text())["releases"]
    assert {"large-imagenet1k-v1", "small-imagenet1k-v1", "v2-imagenet1k-v1"} <= {r["name"] for r in listed}
    # torchvision publishes the first digits of each file's SHA-256 in its name.
    assert all(release["sha256_prefix"] in release["url"] for release in listed)
    printed = capsys.readouterr().out
    assert all(release["name"] in printed for release in listed)
