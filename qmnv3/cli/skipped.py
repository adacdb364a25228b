"""The one line about images that could not be read."""

from collections.abc import Sequence
from pathlib import Path


def skipped_line(paths: Sequence[str | Path]) -> list[str]:
    """What was left out, the first three by name; no line where nothing was."""
    if not paths:
        return []
    images = "1 image" if len(paths) == 1 else f"{len(paths)} images"
    return [f"{images} could not be read, left out: {', '.join(map(str, paths[:3]))}"]
