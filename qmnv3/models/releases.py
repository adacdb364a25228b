"""torchvision's published MobileNet checkpoints."""

from dataclasses import dataclass
from pathlib import Path

from qmnv3.errors import WeightsError
from qmnv3.models.rows import ArchitectureName

LICENCE = "BSD-3-Clause (torchvision); ImageNet's terms of access apply to the data they were trained on"
_BASE = "https://download.pytorch.org/models"


@dataclass(frozen=True)
class Release:
    """One checkpoint: what it is, where it lies and how to check it.

    `sha256_prefix` is the first 8 hexadecimal digits of the file's SHA-256, which torchvision publishes in
    the file name. `size_mib` and `top1` (percent, ImageNet validation) are torchvision's own figures;
    `resize` is the short side in pixels it evaluates at before the 224-pixel crop.
    """

    name: str
    model: ArchitectureName
    url: str
    sha256_prefix: str
    size_mib: float
    top1: float
    resize: int

    @property
    def file_name(self) -> str:
        """Last part of the URL."""
        return self.url.rsplit("/", 1)[1]


def _release(
    name: str, model: ArchitectureName, stem: str, sha: str, size: float, top1: float, resize: int
) -> Release:
    return Release(name, model, f"{_BASE}/{stem}-{sha}.pth", sha, size, top1, resize)


RELEASES: tuple[Release, ...] = (
    _release("large-imagenet1k-v1", "large", "mobilenet_v3_large", "8738ca79", 21.114, 74.042, 256),
    _release("large-imagenet1k-v2", "large", "mobilenet_v3_large", "5c1a4163", 21.107, 75.274, 232),
    _release("small-imagenet1k-v1", "small", "mobilenet_v3_small", "047dcff4", 9.829, 67.668, 256),
    _release("v2-imagenet1k-v1", "v2", "mobilenet_v2", "b0353104", 13.555, 71.878, 256),
    _release("v2-imagenet1k-v2", "v2", "mobilenet_v2", "7ebf99e0", 13.598, 72.154, 232),
)


def find_release(name: str) -> Release:
    """The release called `name`; WeightsError listing the names when there is none."""
    for release in RELEASES:
        if release.name == name:
            return release
    known = ", ".join(release.name for release in RELEASES)
    raise WeightsError(f"no published weights are called {name!r}; known: {known}")


def best_release(model: str) -> Release | None:
    """The most accurate release of a model, if any."""
    releases = [release for release in RELEASES if release.model == model]
    return max(releases, key=lambda release: release.top1, default=None)


def release_of_file(path: Path) -> Release | None:
    """The release whose file name `path` has, if any."""
    return next((release for release in RELEASES if release.file_name == path.name), None)
