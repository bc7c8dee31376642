"""Where the members of a tar archive lie, so that any image is read by itself, in any order.

Source: POSIX.1-2001 (pax), "ustar Interchange Format"; an archive ends with two blocks of zeros.
"""

from __future__ import annotations

import io
import os
import tarfile
import weakref
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from ftx.core.errors import DataError
from ftx.core.untrusted_input import open_file

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
        _refuse_cut(stream, max(0, size_bytes - _END_BYTES), _END_BYTES, where)
        stream.seek(0)
        members: dict[str, TarMember] = {}
        others: list[str] = []
        try:
            with tarfile.open(fileobj=stream, mode="r:") as opened:
                last = -1
                for one in opened:
                    if one.size < 0 or opened.offset <= last:  # a header that leads back, for ever (CVE-2025-8194)
                        raise tarfile.ReadError(f"{one.name[:100]!r} has a size that no file has")
                    last = opened.offset
                    if one.isreg() and one.sparse is None:
                        members[one.name] = TarMember(one.offset_data, one.size)
                    elif not one.isdir():
                        others.append(one.name)
                    opened.members.clear()  # it would keep all it has met  # pyright: ignore[reportAttributeAccessIssue]
                end = opened.offset
        except (tarfile.TarError, ValueError, OverflowError) as error:
            fix = "write it again: ftx data shard DATA OUT, or tar without compression"
            raise DataError("this is no tar archive", where=where, found=str(error), fix=fix) from error
        _refuse_cut(stream, end, 0, where)  # a block of zeros would end it anywhere
        return TarIndex(members, tuple(others), _OpenFile(os.dup(stream.fileno())))


def _refuse_cut(stream: io.BufferedReader, start: int, fewest_bytes: int, where: str) -> None:
    """Refuse what has anything but zeros from ``start`` on, or has too few of them."""
    stream.seek(start)
    end = 0
    while content := stream.read(1 << 20):
        if content.count(0) < len(content):
            break
        end += len(content)
    if content or end < fewest_bytes:
        found = f"{stream.seek(0, io.SEEK_END):,} bytes, and at their end not the zeros that end a tar archive"
        raise DataError("a shard is cut, or is no tar archive", where=where, found=found, fix="copy it again")


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

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._part.size_bytes}[whence]
        self._at = max(0, start + offset)
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: object) -> int:
        into = memoryview(buffer).cast("B")  # pyright: ignore[reportArgumentType]
        wanted = max(0, min(len(into), self._part.size_bytes - self._at))
        given = os.preadv(self._file.number, [into[:wanted]], self._part.offset + self._at) if wanted else 0
        self._at += given
        return given
