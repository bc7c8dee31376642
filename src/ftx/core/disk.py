"""Writing to a disk: its failures as one clear error, and files that are on it for good."""

from __future__ import annotations

import ctypes
import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ftx.core.errors import EnvironmentFault, FtxError

# No space, a quota, a file too large for its file system or its owner's limit.
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_CLOSED = (errno.EACCES, errno.EROFS, errno.EPERM)
# linux/fcntl.h and linux/fs.h
_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
# Of OpenVINO, for a write that failed.
_FAILED_WRITE = "iostream error"
_WRITABLE = "choose a folder that you can write to"


def make_folder(folder: Path) -> None:
    """Make a folder, and those around it.

    Raises: EnvironmentFault if none can be made there.
    """
    with place_for_files(folder):
        folder.mkdir(parents=True, exist_ok=True)


@contextmanager
def place_for_files(folder: Path) -> Iterator[None]:
    """Raise EnvironmentFault if a folder takes no files, as /proc: the system reports it as missing."""
    try:
        yield
    except FileNotFoundError as error:
        raise EnvironmentFault(
            "this folder cannot be written to", where=folder, found=error.strerror, fix=_WRITABLE
        ) from error


@contextmanager
def disk_faults(path: Path) -> Iterator[None]:
    """Turn the operating system's errors about writing into one clear error."""
    try:
        yield
    except FtxError:
        raise
    except Exception as error:
        number = _number(error)
        if number in FULL or (number is None and _FAILED_WRITE in str(error)):
            raise EnvironmentFault(
                "the disk is full",
                where=path,
                found=str(error),
                fix="delete files that you do not need, then run the command again",
            ) from error
        if number == errno.EISDIR:
            raise EnvironmentFault(
                "a folder has the name of a file that ftx must write",
                where=path,
                fix="move this folder to another place",
            ) from error
        if number in _CLOSED:
            raise EnvironmentFault(
                "this path cannot be written to", where=path, found=os.strerror(number), fix=_WRITABLE
            ) from error
        raise


def _number(error: Exception) -> int | None:
    """The system's number of an error; not every library raises OSError: safetensors quotes the system's words."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    return next((number for number in (*FULL, *_CLOSED) if os.strerror(number) in str(error)), None)


def settle(folder: Path) -> None:
    """Put everything on disk, as readable as files that the user makes: safetensors writes 0600.

    Links and pipes that somebody put there do not change, nor do files that have a second name elsewhere.
    """
    mode = 0o666 & ~umask()
    for path in sorted(folder.rglob("*")):
        found = path.lstat()
        if stat.S_ISDIR(found.st_mode):
            fsync_folder(path)
        elif stat.S_ISREG(found.st_mode) and found.st_nlink == 1:
            path.chmod(mode)
            with path.open("rb") as stream:
                os.fsync(stream.fileno())
    fsync_folder(folder)


def fsync_folder(folder: Path) -> None:
    """Put the names in a folder on the disk."""
    if os.name == "nt":  # Windows opens no folder as a file
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def exchange_folders(one: Path, other: Path) -> None:
    """Swap the names of two folders of one file system in one step: no reader and no crash ever finds one missing.

    Raises: EnvironmentFault if the system has no such call, or the file system does not support it.
    """
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    found = "the C library has no renameat2"
    if rename is not None:
        names = (os.fsencode(path.absolute()) for path in (one, other))
        if rename(_AT_FDCWD, next(names), _AT_FDCWD, next(names), _RENAME_EXCHANGE) == 0:
            for folder in {one.absolute().parent, other.absolute().parent}:
                fsync_folder(folder)
            return
        found = os.strerror(ctypes.get_errno())
    raise EnvironmentFault(
        "this file system cannot swap two folders",
        where=other,
        found=found,
        fix="choose a folder on another file system",
    )


def umask() -> int:
    """The permissions that new files of this process do not get."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
