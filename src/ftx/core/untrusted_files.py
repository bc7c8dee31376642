"""Files that others made, opened only if they are files: a pipe is waited on for ever, and a device has no end."""

from __future__ import annotations

import errno
import os
import stat
from io import BufferedReader
from pathlib import Path

from ftx.core.errors import InputError

_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


class IrregularFile(InputError, OSError):
    """A path that is no regular file; an OSError too, so that whoever says why a file cannot be read says this."""

    def __init__(self, path: Path, mode: int) -> None:
        found = next((kind for is_kind, kind in _KINDS if is_kind(mode)), "something else")
        super().__init__("this is no regular file", where=path, found=found, fix="name a file")
        self.errno, self.strerror, self.filename = errno.EINVAL, f"{found}, no regular file", str(path)

    def __str__(self) -> str:
        return f"{self.what}: {self.found}"


def require_file(path: Path) -> None:
    """Refuse a path that is no regular file, before a library opens it by its name.

    Raises: IrregularFile; OSError if there is nothing.
    """
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode):
        raise IrregularFile(path, mode)


def open_file(path: Path) -> BufferedReader:
    """Open a regular file to read its bytes.

    Raises: IrregularFile; OSError if there is nothing, or it may not be read.
    """
    require_file(path)  # opening a device may move it
    # What took the file's place meanwhile is not waited for either.
    number = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        mode = os.fstat(number).st_mode
        if not stat.S_ISREG(mode):
            raise IrregularFile(path, mode)
        return os.fdopen(number, "rb")
    except BaseException:
        os.close(number)
        raise


def read_file(path: Path, most_bytes: int | None = None) -> bytes:
    """All bytes of a regular file, if they are not more than ``most_bytes``.

    Raises: IrregularFile; InputError if it is larger; OSError if there is nothing, or it may not be read.
    """
    with open_file(path) as stream:
        size_bytes = os.fstat(stream.fileno()).st_size
        if most_bytes is not None and size_bytes > most_bytes:
            found = f"{size_bytes / 1e6:,.1f} MB of at most {most_bytes / 1e6:,.1f}"
            raise InputError("the file is too large", where=path, found=found)
        return stream.read()
