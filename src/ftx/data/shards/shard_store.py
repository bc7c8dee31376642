"""An image of a shard, opened by its path: ``0003.tar/000012.jpg`` is the member 000012.jpg of the archive 0003.tar.

An index of where the members lie lets any image be read by itself, in any order.
Source: POSIX.1-2001 (pax), "ustar Interchange Format"; an archive ends with two blocks of zeros.
"""

from __future__ import annotations

import io
import os
import tarfile
import weakref
from collections import OrderedDict, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import NamedTuple

from ftx.core.addresses import Address, Location
from ftx.core.errors import DataError
from ftx.core.untrusted_input import open_file
from ftx.data.shards.fetched import fetched, forget

# Archives that are open at a time; an epoch reads few at once (ftx.data.shards.shard_wise).
MOST_OPEN = 128
_END_BYTES = 2 * tarfile.BLOCKSIZE


class TarMember(NamedTuple):
    """Where a member's bytes lie in its archive."""

    offset: int
    size_bytes: int


@dataclass(frozen=True)
class TarIndex:
    """The regular files of an archive by name, and the names of members that are anything else, such as links."""

    members: dict[str, TarMember]
    others: tuple[str, ...]
    _file: _OpenFile = field(repr=False)

    def open(self, name: str) -> io.BufferedReader:
        """A member, to be read apart from all others, by any thread.

        Raises: KeyError if the archive has none of that name.
        """
        return io.BufferedReader(_Section(self._file, self.members[name]))


def read_index(archive: Path, where: str) -> TarIndex:
    """Read the headers of an archive, which errors call ``where``.

    Raises: DataError if it is no tar archive, is compressed, or is cut; InputError if it is no regular file; OSError.
    """
    with open_file(archive) as stream:
        size_bytes = stream.seek(0, io.SEEK_END)
        _check_end(stream, max(0, size_bytes - _END_BYTES), _END_BYTES, where)
        stream.seek(0)
        members: dict[str, TarMember] = {}
        others: list[str] = []
        try:
            with tarfile.open(fileobj=stream, mode="r:") as opened:
                last = -1
                for one in opened:
                    if one.size < 0 or opened.offset <= last:  # a header that leads back, for ever (CVE-2025-8194)
                        raise tarfile.ReadError(f"{one.name[:100]!r} has an impossible size")
                    last = opened.offset
                    if one.isreg() and one.sparse is None:
                        members[one.name] = TarMember(one.offset_data, one.size)
                    elif not one.isdir():
                        others.append(one.name)
                    opened.members.clear()  # it would keep all it has met  # pyright: ignore[reportAttributeAccessIssue]
                end = opened.offset
        except (tarfile.TarError, ValueError, OverflowError) as error:
            fix = "write the shards again with `ftx data shard DATA OUT`, or with tar without compression"
            raise DataError("a shard must be a tar archive", where=where, found=str(error), fix=fix) from error
        _check_end(stream, end, 0, where)  # a block of zeros would end it anywhere
        return TarIndex(members, tuple(others), _OpenFile(os.dup(stream.fileno())))


def _check_end(stream: io.BufferedReader, start: int, fewest_bytes: int, where: str) -> None:
    """Raise DataError unless only zeros follow ``start``, and enough of them."""
    stream.seek(start)
    end = 0
    while content := stream.read(1 << 20):
        if content.count(0) < len(content):
            break
        end += len(content)
    if content or end < fewest_bytes:
        found = f"{stream.seek(0, io.SEEK_END):,} bytes, without the zeros that end a tar archive"
        raise DataError(
            "the shard is incomplete, or not a tar archive", where=where, found=found, fix="copy the shard again"
        )


class _OpenFile:
    """A file that is open for as long as anything reads it."""

    def __init__(self, number: int) -> None:
        self.number = number
        weakref.finalize(self, os.close, number)


class _Section(io.RawIOBase):
    """A part of a file, with a place of its own."""

    def __init__(self, file: _OpenFile, part: TarMember) -> None:
        self._file, self._part, self._at = file, part, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, origin: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._part.size_bytes}[origin]
        self._at = max(0, start + offset)
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: object) -> int:
        into = memoryview(buffer).cast("B")  # pyright: ignore[reportArgumentType]
        into = into[: max(0, self._part.size_bytes - self._at)]
        read_bytes = os.preadv(self._file.number, [into], self._part.offset + self._at) if into else 0
        self._at += read_bytes
        return read_bytes


def open_member(archive: Location, name: str) -> io.BufferedReader:
    """A member of an archive on this machine or another.

    Raises: FileNotFoundError if the archive or the member is not there; DataError for an invalid archive;
    EnvironmentFault if another machine cannot be reached.
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

    With ``fetch``, it is copied again.
    Raises: as ``open_member``.
    """
    if isinstance(archive, Address) and fetch:
        forget(archive)
    return _SHARDS.read(archive)


class _OpenArchive(NamedTuple):
    """An archive's file, its index, and the state of the file when the index was read."""

    file: Path
    contents: TarIndex
    state: tuple[int, int, int]


class _OpenShards:
    """The indices of the archives that were read last; the file of one that is let go closes behind its last reader."""

    def __init__(self) -> None:
        self._open: OrderedDict[Location, _OpenArchive] = OrderedDict()
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
        opened = _OpenArchive(file, read_index(file, str(archive)), _state(file))
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
    """A value that changes if the file is replaced."""
    found = file.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns


_SHARDS = _OpenShards()
