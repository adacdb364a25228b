"""Real shards, written by WebDataset's own writer, and a server for them."""

import random
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import webdataset
from PIL import Image

from qmnv3.data import find_images
from qmnv3.data.folder import ImageFolder


def make_folder(root: Path, count: int = 26) -> ImageFolder:
    """`count` images of noise in two classes."""
    generator = np.random.default_rng(0)
    for index in range(count):
        path = root / f"class{index % 2}" / f"{index:02d}.{('png', 'JPEG')[index % 3 == 0]}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (20, 24, 3), np.uint8)).save(path)
    return find_images(root, classes=True)


def write_shards(folder: ImageFolder, target: Path, *, per_shard: int, labels: bool = True) -> list[Path]:
    """Shards train-000000.tar and so on with `folder`'s images, mixed; keys are the folder's file names."""
    target.mkdir(parents=True, exist_ok=True)
    order = random.Random(0).sample(range(len(folder)), len(folder))
    with webdataset.ShardWriter(str(target / "train-%06d.tar"), maxcount=per_shard, verbose=0) as sink:
        for index in order:
            path = folder.paths[index]
            sample: dict[str, Any] = {"__key__": path.stem, path.suffix[1:].lower(): path.read_bytes()}
            sink.write(sample | ({"cls": folder.labels[index]} if labels else {}))
    return sorted(target.glob("*.tar"))


class Handler(SimpleHTTPRequestHandler):
    """Counts what is asked for, and says nothing."""

    asked: Counter[str]

    def do_GET(self) -> None:
        self.server.asked[self.path] += 1  # type: ignore[attr-defined]
        super().do_GET()

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def served(folder: Path, handler: type[Handler] = Handler) -> Iterator[tuple[str, Counter[str]]]:
    """Address of a server of `folder`'s files, and how often each path was asked for."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=str(folder)))
    server.asked = Counter()  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", server.asked  # type: ignore[attr-defined]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
