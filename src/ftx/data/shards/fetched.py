"""Files of other machines, copied whole to this one before they are read, and kept while the disk has space.

fsspec reads them. It is imported only for an ``Address``, whose scheme was checked: other schemes of it read this
machine's files, and run what a document contains.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from hashlib import sha256
from pathlib import Path
from time import sleep
from typing import Any, TypeVar

from filelock import FileLock

from ftx.core.addresses import Address
from ftx.core.disk import FULL, disk_faults
from ftx.core.errors import EnvironmentFault
from ftx.core.files import staged_file
from ftx.core.user_cache import cache_folder

T = TypeVar("T")

# Of the disk's free space; the copies that were used last stay.
_FRACTION_OF_FREE = 0.5
# SHA-256 in hex.
_NAME_LENGTH = 64
# A server that is being restarted is back by then; seconds before the second and the third attempt.
_WAITS_S = (1.0, 4.0)
# What differs if another file took the place of the one at an address.
_STATED = (
    *("size", "ETag", "etag", "Last-Modified", "LastModified", "last_modified", "mtime", "updated", "generation"),
    *("Content-MD5", "Digest", "blob_id", "lfs", "last_commit"),
)
# Errors of a full disk; no network's fault.
_OF_THE_DISK = (*FULL, errno.EROFS)


def fetched(address: Address) -> Path:
    """A copy, on this machine, of the file at an address, as it is there now.

    Raises: EnvironmentFault if it cannot be reached, is not there, or the disk takes no more.
    """
    system, place = _file_system(address)
    copy, stated = _copy_of(address, system, place)
    with FileLock(copy.with_suffix(".lock"), mode=0o600):  # one process of this machine fetches, others wait
        if not copy.is_file():
            _free_space(copy.parent, stated.get("size") or 0)
            with disk_faults(copy), staged_file(copy) as staged:
                _attempts(address, lambda: _copied(system, place, staged, stated.get("size")))
        os.utime(copy)
    return copy


def state_of(address: Address) -> str:
    """A value that changes with the file at an address, as far as its server shows. Raises: as ``fetched``."""
    return _copy_of(address, *_file_system(address))[0].name


def forget(address: Address) -> None:
    """Remove the copy of the file at an address. Raises: as ``fetched``."""
    _copy_of(address, *_file_system(address))[0].unlink(missing_ok=True)


def _copy_of(address: Address, system: Any, place: str) -> tuple[Path, dict[str, Any]]:
    """Where the copy of what is at the address now belongs, and what its server states of it."""
    stated: dict[str, Any] = _attempts(address, lambda: system.info(place))
    named = repr((str(address), [(key, str(stated[key])) for key in _STATED if key in stated]))
    return _folder() / sha256(named.encode()).hexdigest(), stated


def content_at(address: Address, most_bytes: int) -> bytes | None:
    """The beginning of a small file at an address that may have it; None if there is no such file.

    A store whose files may be read but not listed denies access to a file that does not exist.
    Raises: EnvironmentFault if the address cannot be reached.
    """
    system, place = _file_system(address)

    def read() -> bytes | None:
        try:
            with system.open(place, "rb") as stream:
                return stream.read(most_bytes)
        except FileNotFoundError as error:
            if _is_absent(error):
                return None
            raise

    try:
        return _attempts(address, read)
    except EnvironmentFault as fault:
        if isinstance(fault.__cause__, PermissionError) or _status(fault.__cause__) in (401, 403):
            return None
        raise


def _copied(system: Any, place: str, into: Path, size_bytes: int | None) -> None:
    with system.open(place, "rb") as stream, into.open("wb") as copy:
        shutil.copyfileobj(stream, copy, 1 << 20)
    if size_bytes is not None and into.stat().st_size != size_bytes:
        raise OSError(f"{into.stat().st_size:,} bytes arrived, of {size_bytes:,}")


def _file_system(address: Address) -> tuple[Any, str]:
    from fsspec.core import url_to_fs

    try:
        return url_to_fs(str(address))
    except (ImportError, ValueError) as error:
        raise EnvironmentFault(
            "no installed package reads this kind of URL",
            where=address,
            found=str(error),
            fix="install the package that this message names",
        ) from error


def _attempts(address: Address, read: Callable[[], T]) -> T:
    for wait_s in (*_WAITS_S, None):
        try:
            return read()
        except Exception as error:  # each of fsspec's packages raises its own
            if isinstance(error, FileNotFoundError) and _is_absent(error):
                raise EnvironmentFault(
                    "the file at this URL does not exist", where=address, fix="check the URL"
                ) from error
            if isinstance(error, OSError) and error.errno in _OF_THE_DISK:
                raise
            if isinstance(error, MemoryError) or wait_s is None:
                raise EnvironmentFault(
                    "the file cannot be downloaded",
                    where=address,
                    found=str(error.__cause__ or error) or type(error).__name__,
                    fix="check the network and your access, then run the command again: it keeps what has arrived",
                ) from error
            sleep(wait_s)
    raise AssertionError("the last attempt returns or raises")


def _is_absent(error: FileNotFoundError) -> bool:
    """Whether a file does not exist; fsspec raises the same for a server that fails or does not exist."""
    cause = error.__cause__
    return cause is None or isinstance(cause, FileNotFoundError) or _status(error) in (404, 410)


def _status(error: BaseException | None) -> int | None:
    """The HTTP status of a server's response."""
    found = (getattr(one, "status", None) for one in (error, error and error.__cause__))
    return next((status for status in found if status is not None), None)


def _folder() -> Path:
    return cache_folder("fetched", "files", keep=None) or Path(_for_this_process().name)


@cache
def _for_this_process() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="ftx-fetched-")


def _free_space(folder: Path, size_bytes: int) -> None:
    """Remove the copies that were used least recently, until all together have their fraction of the disk.

    One that another process reads stays readable to it.
    """
    with suppress(OSError):
        copies = sorted(
            (path for path in folder.iterdir() if len(path.name) == _NAME_LENGTH), key=lambda path: path.stat().st_mtime
        )
        held = {path: path.stat().st_size for path in copies if path.is_file()}
        total = size_bytes + sum(held.values())
        most = _FRACTION_OF_FREE * (shutil.disk_usage(folder).free + total - size_bytes)
        for path, held_bytes in held.items():
            if total <= most:
                return
            path.unlink()
            total -= held_bytes
