"""The content of a file, kept while the file system reports that the file is still the same."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

T = TypeVar("T")

# Two changes within one tick of a file system's clock look like one, and FAT's ticks every two seconds: a file that
# changed so short a time ago may change again unseen.
TICK_NS = 2_000_000_000


class UnchangedFile(Generic[T]):
    """A file and what ``read`` makes of it; it is read again only when the file changed."""

    def __init__(self, path: Path, read: Callable[[Path], T]) -> None:
        self.path, self._read = path, read
        self._kept: tuple[tuple[int, ...], T] | None = None

    def get(self) -> T:
        """The content now; raises what ``read`` raises.

        Changes through a memory map may stay unseen: the system sets a file's times only for the first of them.
        """
        before = self._state()
        if self._kept is not None and self._kept[0] == before:
            return self._kept[1]
        content = self._read(self.path)
        # The times are long enough ago that a change from now on will show.
        if before and time.time_ns() - max(before[-2:]) > TICK_NS and before == self._state():
            self._kept = before, content
        return content

    def _state(self) -> tuple[int, ...]:
        """The values that differ after a change: ctime too, which no program can set back as it can mtime."""
        try:
            found = self.path.stat()
        except OSError:
            return ()
        return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
