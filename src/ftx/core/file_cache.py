"""What was read from a file, kept while the file system says that the file is still the same."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

T = TypeVar("T")

# Two changes within one tick of a file system's clock look like one, and FAT's ticks every two seconds: a file that
# changed so short a time ago may change again unseen.
TICK_NS = 2_000_000_000


class _State(NamedTuple):
    """What differs after a change; ctime too, which no program can set back as it can mtime."""

    device: int
    inode: int
    size_bytes: int
    mtime_ns: int
    ctime_ns: int

    @property
    def settled(self) -> bool:
        """Whether a change from now on will show."""
        return time.time_ns() - max(self.mtime_ns, self.ctime_ns) > TICK_NS


class UnchangedFile(Generic[T]):
    """A file and what ``read`` makes of it; it is read again only when the file changed."""

    def __init__(self, path: Path, read: Callable[[Path], T]) -> None:
        self.path, self._read = path, read
        self._kept: tuple[_State, T] | None = None

    def get(self) -> T:
        """What the file holds now; raises what ``read`` raises.

        Changes through a memory map may stay unseen: the system sets a file's times for the first of them alone.
        """
        before = self._state()
        if self._kept is not None and self._kept[0] == before:
            return self._kept[1]
        found = self._read(self.path)
        if before is not None and before.settled and before == self._state():
            self._kept = before, found
        return found

    def _state(self) -> _State | None:
        try:
            found = self.path.stat()
        except OSError:
            return None
        return _State(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
