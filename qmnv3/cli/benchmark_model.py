"""Where TFLite's benchmark_model comes from: a file of the user's, or a checked download."""

import re
from dataclasses import dataclass
from pathlib import Path

from device_eval.latency.binary import android_abi
from qmnv3.errors import DeviceError

PUBLISHED = (
    "https://storage.googleapis.com/tensorflow-nightly-public/prod/tensorflow/release/lite/tools/nightly/"
    "latest/android_aarch64_benchmark_model"
)
"""Google's build of the night, for 64-bit phones. It changes, and comes without a checksum."""


@dataclass(frozen=True)
class Download:
    """A program to fetch: its address and the SHA-256 it must have, 64 hexadecimal digits."""

    url: str
    sha256_prefix: str

    @property
    def file_name(self) -> str:
        """Last part of the URL."""
        return self.url.rsplit("/", 1)[1] or "benchmark_model"


def find_program(given: str | None) -> Path:
    """The file named, fetched first if it is a URL; DeviceError when it is no program for Android."""
    if given is None:
        raise DeviceError(
            "--device adb needs TFLite's benchmark_model: give --benchmark-model FILE, or URL#sha256=DIGEST "
            f"(Google's for 64-bit phones: {PUBLISHED})"
        )
    path = fetch_program(given) if "://" in given else Path(given)
    android_abi(path)
    return path


def fetch_program(address: str) -> Path:
    """Download URL#sha256=DIGEST into the cache and return its path; a verified file there is kept."""
    found = re.fullmatch(r"(https?://[^#]+)#sha256=([0-9a-fA-F]{64})", address)
    if found is None:
        raise DeviceError(
            f"--benchmark-model {address}: a download needs a checksum; give URL#sha256= and the 64 "
            "digits that `sha256sum` prints for a copy you trust"
        )
    # Imported here: the folder of the downloads loads torch.
    from qmnv3.cli.progress import bytes_progress
    from qmnv3.models.download import cache_dir, fetch

    download = Download(found[1], found[2].lower())
    with bytes_progress(download.file_name) as report:
        return fetch(download, cache_dir() / "benchmark_model" / download.sha256_prefix[:8], report)
