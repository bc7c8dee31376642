"""An image of a shard, opened by its path: ``0003.tar/000012.jpg`` is the member 000012.jpg of the archive 0003.tar."""

from __future__ import annotations

import io
from collections import OrderedDict, defaultdict
from pathlib import Path
from threading import Lock
from typing import NamedTuple

from ftx.core.addresses import Address, Location
from ftx.data.shards.fetched import fetched, forget
from ftx.data.shards.tar_index import TarIndex, read_index

# Archives that are open at a time; an epoch reads few at once (ftx.data.shards.shard_wise).
MOST_OPEN = 128


def open_member(archive: Location, name: str) -> io.BufferedReader:
    """A member of an archive on this machine or another.

    Raises: FileNotFoundError if the archive or the member is not there; DataError for an archive that does not hold;
    EnvironmentFault if another machine does not answer.
    """
    try:
        return _SHARDS.index(archive).open(name)
    except KeyError:
        raise FileNotFoundError(f"{archive} has no {name}") from None


def has_member(archive: Location, name: str) -> bool:
    """Whether the archive is there and holds such a file. Raises: DataError, EnvironmentFault as ``open_member``."""
    try:
        return name in _SHARDS.index(archive).members
    except FileNotFoundError:
        return False


def open_current(archive: Location, *, fetch: bool = False) -> tuple[Path, TarIndex]:
    """An archive as it is now: its file, or a copy of another machine's, and where its members lie.

    With ``fetch``, what was copied before is not trusted.
    Raises: as ``open_member``.
    """
    if isinstance(archive, Address) and fetch:
        forget(archive)
    return _SHARDS.read(archive)


class _Opened(NamedTuple):
    """An archive's file, its index, and what the file was when that was read."""

    file: Path
    contents: TarIndex
    state: tuple[int, int, int]


class _OpenShards:
    """The indices of the archives that were read last; the file of one that is let go closes behind its last reader."""

    def __init__(self) -> None:
        self._open: OrderedDict[Location, _Opened] = OrderedDict()
        self._reading: defaultdict[Location, Lock] = defaultdict(Lock)
        self._one_at_a_time = Lock()

    def index(self, archive: Location) -> TarIndex:
        if (known := self._known(archive)) is not None:
            return known
        with self._one_at_a_time:
            mine = self._reading[archive]
        with mine:  # one thread reads it, others wait for that
            return self._known(archive) or self.read(archive)[1]

    def read(self, archive: Location) -> tuple[Path, TarIndex]:
        file = fetched(archive) if isinstance(archive, Address) else archive
        opened = _Opened(file, read_index(file, str(archive)), _state(file))
        with self._one_at_a_time:
            self._open[archive] = opened
            self._open.move_to_end(archive)
            while len(self._open) > MOST_OPEN:
                self._open.popitem(last=False)
        return opened.file, opened.contents

    def _known(self, archive: Location) -> TarIndex | None:
        with self._one_at_a_time:
            opened = self._open.get(archive)
            if opened is None or (isinstance(archive, Path) and _state(archive) != opened.state):
                return None
            self._open.move_to_end(archive)
            return opened.contents


def _state(file: Path) -> tuple[int, int, int]:
    """What is another once other content took the file's place."""
    found = file.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns


_SHARDS = _OpenShards()
