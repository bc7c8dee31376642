"""Files that are whole or not there: temporary name, fsync, rename."""

from __future__ import annotations

import errno
import hashlib
import os
import platform
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

from ftx.errors import EnvironmentFault, FtxError, shown

# A folder or file under this prefix is work in progress of one process and never an artifact.
STAGING_PREFIX = ".ftx-partial-"


# The machine's name is part of it: a shared folder may hold the work of another one's living process.
_OURS = f"{STAGING_PREFIX}{re.sub(r'[^A-Za-z0-9]', '_', platform.node())}-"


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes, as hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def below_it(files: dict[str, str]) -> dict[str, str]:
    """Hashes by file, as a folder's own record has them; raises ValueError for a name that leads out of the folder."""
    for name in files:
        parts = Path(name).parts
        if not parts or ".." in parts or Path(name).is_absolute() or "\0" in name or len(name) > 4096:
            raise ValueError(f"{shown(name)} is no file below the folder")
    return files


def write_atomic(path: Path, content: bytes) -> None:
    """Write a file so that it appears under its name only when it is whole and on disk.

    Raises: EnvironmentFault if the disk is full or the folder cannot be written.
    """
    with disk_faults(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=STAGING_PREFIX)
        staged = Path(name)
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
            # mkstemp makes 0600; an artifact is as readable as any file that the user makes.
            staged.chmod(0o666 & ~_umask())
            staged.replace(path)
        except BaseException:
            staged.unlink(missing_ok=True)
            raise
        _fsync_folder(path.parent)


@contextmanager
def stage_folder(final: Path) -> Iterator[Path]:
    """Give a temporary folder beside ``final`` and move it there when the block ends well.

    A folder already at ``final`` is replaced; whether that is allowed is the caller's to say.
    Raises: EnvironmentFault if the disk is full or the folder cannot be written.
    """
    with staging(final) as staged:
        yield staged
        settle(staged)
        _swap(staged, final)
        _fsync_folder(final.parent)


@contextmanager
def staging(final: Path) -> Iterator[Path]:
    """Give a temporary folder beside ``final``, which is gone after the block unless the block moved it."""
    with disk_faults(final):
        final.parent.mkdir(parents=True, exist_ok=True)
        _sweep(final.parent)
        staged = Path(tempfile.mkdtemp(dir=final.parent, prefix=f"{_OURS}{os.getpid()}-"))
        staged.chmod(0o777 & ~_umask())
        try:
            yield staged
        finally:
            shutil.rmtree(staged, ignore_errors=True)


def _sweep(folder: Path) -> None:
    """Remove what killed processes of this machine left unfinished."""
    for left in folder.glob(f"{_OURS}*"):
        number = left.name.removeprefix(_OURS).partition("-")[0]
        if number.isdecimal() and not _alive(int(number)):
            shutil.rmtree(left, ignore_errors=True)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # another user's
        return True
    return True


def place_new(staged: Path, final: Path) -> Path:
    """Move a folder to ``final``, or to ``final-2``, ``final-3``, … if that was taken meanwhile; says where."""
    for candidate in numbered(final):
        if candidate.exists() or candidate.is_symlink():
            continue
        try:
            staged.rename(candidate)
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):  # taken since it was looked at
                continue
            raise
        _fsync_folder(candidate.parent)
        return candidate
    raise AssertionError("the numbers do not end")


def numbered(path: Path) -> Iterator[Path]:
    """``path``, ``path-2``, ``path-3``, …"""
    yield path
    yield from (path.with_name(f"{path.name}-{number}") for number in count(2))


def _swap(staged: Path, final: Path) -> None:
    if not final.exists():
        staged.rename(final)
        return
    # A folder cannot be renamed over one that is not empty, so the old one steps aside first.
    retired = Path(tempfile.mkdtemp(dir=final.parent, prefix=STAGING_PREFIX))
    final.rename(retired / final.name)
    try:
        staged.rename(final)
    except BaseException:
        (retired / final.name).rename(final)
        raise
    finally:
        shutil.rmtree(retired, ignore_errors=True)


# No space, a quota, a file too large for its file system or its owner's limit.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# Not every library raises OSError: safetensors quotes the system's words, OpenVINO has its own for a failed write.
_FULL_IN_WORDS = (*(os.strerror(number) for number in _FULL), "iostream error")


@contextmanager
def disk_faults(path: Path) -> Iterator[None]:
    """Turn the operating system's refusals to write into one clear error."""
    try:
        yield
    except FtxError:
        raise
    except Exception as error:
        number = error.errno if isinstance(error, OSError) else None
        if number in _FULL or (number is None and any(words in str(error) for words in _FULL_IN_WORDS)):
            raise EnvironmentFault(
                "the disk takes no more", where=path, found=str(error), mend="free some space and run it again"
            ) from error
        if number in (errno.EACCES, errno.EROFS, errno.EPERM):
            raise EnvironmentFault(
                "this place cannot be written", where=path, found=os.strerror(number), mend="choose another folder"
            ) from error
        raise


def settle(folder: Path) -> None:
    """Everything on disk, and as readable as files that the user makes: safetensors writes 0600."""
    mode = 0o666 & ~_umask()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            path.chmod(mode)
            with path.open("rb") as stream:
                os.fsync(stream.fileno())
        else:
            _fsync_folder(path)
    _fsync_folder(folder)


def _fsync_folder(folder: Path) -> None:
    if os.name == "nt":  # Windows opens no folder as a file
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def check_space(folder: Path, needed_bytes: int) -> None:
    """Refuse to begin where the disk cannot hold the result.

    Raises: EnvironmentFault if fewer than ``needed_bytes`` are free.
    """
    existing = next(parent for parent in [folder.absolute(), *folder.absolute().parents] if parent.exists())
    status = os.statvfs(existing) if hasattr(os, "statvfs") else None
    if status is not None and status.f_bavail * status.f_frsize < needed_bytes:
        free_mb = status.f_bavail * status.f_frsize / 1e6
        raise EnvironmentFault(
            "the disk is too full",
            where=existing,
            found=f"{free_mb:.0f} MB free, {needed_bytes / 1e6:.0f} MB needed",
            mend="free some space",
        )
