"""How algorithms tell that they move on, without knowing about terminals."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

Advance = Callable[[int], None]
# Opens a bar of so many items; inside the block the yielded function advances it.
Progress = Callable[[str, int], AbstractContextManager[Advance]]


@contextmanager
def silent(description: str, total: int) -> Iterator[Advance]:
    """No bar at all."""
    yield lambda count: None
