"""Files that are whole or absent: temporary name, fsync, rename; and folders with one writer at a time."""

from __future__ import annotations

import errno
import hashlib
import os
import platform
import re
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from itertools import count
from pathlib import Path
from tempfile import TemporaryFile

from ftx.core.disk import disk_faults, fsync_folder, make_folder, place_for_files, settle, umask
from ftx.core.errors import EnvironmentFault, InputError, RunError
from ftx.core.file_cache import UnchangedFile
from ftx.core.untrusted_input import open_file

# A folder or file under this prefix is work in progress of one process and never an artifact.
STAGING_PREFIX = ".ftx-partial-"
# The lock of a folder that several processes may change. It is never removed: a new one could be held twice.
LOCK = ".ftx-lock"
# A process that records a file holds the lock for less than this; so short a wait needs no note.
_NOTED_AFTER_S = 1.0


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes, as hex."""
    with open_file(path) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


_HASHED: dict[Path, UnchangedFile[str]] = {}


def cached_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, as hex; a process reads them again only when the file changed."""
    absolute = path.absolute()
    return _HASHED.setdefault(absolute, UnchangedFile(absolute, sha256_file)).get()


def write_atomic(path: Path, content: bytes) -> None:
    """Write a file so that it appears under its name only when it is whole and on disk.

    Raises: EnvironmentFault if the disk is full or the folder cannot be written.
    """
    with staged_file(path) as staged:
        staged.write_bytes(content)


def check_writable(folder: Path) -> None:
    """Find out that a folder cannot be written before minutes of work, and not after them. Raises: EnvironmentFault."""
    with disk_faults(folder), TemporaryFile(dir=folder):
        pass


@contextmanager
def staged_file(path: Path) -> Iterator[Path]:
    """Give a temporary name next to ``path``; what the block wrote there is moved to it, whole and on disk.

    Raises: EnvironmentFault if the disk is full or the folder cannot be written.
    """
    with disk_faults(path):
        make_folder(path.parent)
        sweep(path.parent)
        staged = partial_path(path.parent)
        try:  # a signal may come as soon as the file is there
            with place_for_files(path.parent):
                staged.touch()
            yield staged
            # Some libraries write 0600; an artifact is as readable as any file that the user makes.
            staged.chmod(0o666 & ~umask())
            with staged.open("rb") as stream:
                os.fsync(stream.fileno())
            staged.replace(path)
        except BaseException:
            staged.unlink(missing_ok=True)
            raise
        fsync_folder(path.parent)


@contextmanager
def stage_folder(final: Path) -> Iterator[Path]:
    """Give a temporary folder next to ``final`` and move it there when the block ends well.

    A folder that exists at ``final`` is replaced; the caller decides whether that is allowed.
    Raises: EnvironmentFault if the disk is full or the folder cannot be written.
    """
    with staging(final) as staged:
        yield staged
        settle(staged)
        replace_folder(staged, final)


@contextmanager
def staging(final: Path) -> Iterator[Path]:
    """Give a temporary folder next to ``final``, which is gone after the block unless the block moved it."""
    with disk_faults(final):
        make_folder(final.parent)
        sweep(final.parent)
        staged = partial_path(final.parent)
        try:  # a signal may come as soon as the folder is there
            with place_for_files(final.parent):
                staged.mkdir()
            staged.chmod(0o777 & ~umask())
            yield staged
        finally:
            shutil.rmtree(staged, ignore_errors=True)


def partial_path(folder: Path) -> Path:
    """A free name in ``folder`` for unfinished work of this process."""
    return folder / f"{_owned_prefix()}{secrets.token_hex(4)}"


def sweep(folder: Path, *, below: bool = False) -> None:
    """Remove unfinished work of processes of this machine that have ended; with ``below`` in folders inside as well.

    The work of living processes stays, and so does that of other machines in a shared folder.
    """
    for inside, folders, files in os.walk(folder):
        for name in (*folders, *files):
            if _abandoned(name):
                path = Path(inside, name)
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path, ignore_errors=True)
                    continue
                with suppress(OSError):  # another process was first, or it is another user's
                    path.unlink()
        folders[:] = [name for name in folders if below and not name.startswith(STAGING_PREFIX)]


def _owned_prefix() -> str:
    """The beginning of the names of this process's unfinished work: machine, process, and when it began."""
    process = os.getpid()
    return f"{STAGING_PREFIX}{_machine()}-{process}-{_state_and_start(process)[1] or 0}-"


@cache
def _machine() -> str:
    """The name of the machine, and of the container, within which a process number means one process."""
    name = re.sub(r"[^A-Za-z0-9]", "_", platform.node())
    try:
        space = Path("/proc/self/ns/pid").readlink().name  # pid:[4026531836]
    except OSError:  # not Linux
        return name
    return f"{name}_{re.sub(r'[^0-9]', '', space)}"


def _abandoned(name: str) -> bool:
    """Whether the name is that of unfinished work whose process has ended."""
    ours = f"{STAGING_PREFIX}{_machine()}-"
    found = re.match(r"(\d{1,9})-(\d+)-", name.removeprefix(ours)) if name.startswith(ours) else None
    return found is not None and not _alive(int(found[1]), int(found[2]))


def _alive(process: int, began: int) -> bool:
    """Whether the process that began then lives; its number may be another program's by now."""
    if os.name == "nt":  # where kill would send Ctrl-C
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # another user's
        pass
    state, start = _state_and_start(process)
    return state not in ("Z", "X") and start in (None, began)


def _state_and_start(process: int) -> tuple[str, int | None]:
    """A process's state by the kernel (Z: ended, not yet collected), and when it began, in the kernel's ticks.

    Source: proc_pid_stat(5), fields 3 and 22; the second, a program's name, may hold blanks and brackets.
    """
    try:
        fields = Path(f"/proc/{process}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return "", None
    return fields[0], int(fields[19])


@contextmanager
def sole_writer(folder: Path, note: Callable[[str], None] | None) -> Iterator[None]:
    """Let no other process change the folder until the block ends; a killed process releases it as well.

    ``note`` is called if this process must wait. Unfinished work of ended processes in the folder is removed.
    Raises: EnvironmentFault if the folder cannot be written; RunError if its lock is a link, or without ``note`` if it
    is held.
    """
    from filelock import FileLock, Timeout

    _check_no_link(folder / LOCK)
    lock = FileLock(folder / LOCK)
    with disk_faults(folder):
        try:
            lock.acquire(timeout=_NOTED_AFTER_S)
        except Timeout:
            if note is None:
                raise RunError(
                    "another ftx is using this folder",
                    where=folder,
                    fix="wait until it ends, then run the command again",
                ) from None
            note(f"another ftx is writing to {folder}: waiting for it")
            lock.acquire()
    try:
        sweep(folder, below=True)
        yield
    finally:
        lock.release()


def check_no_links(folders: Iterable[Path]) -> None:
    """Check that no folder, nor a folder inside, is a link: files written there would go elsewhere.

    Raises: RunError naming the link.
    """
    for folder in folders:
        _check_no_link(folder)
        for inside, names, _ in os.walk(folder):
            for name in names:
                _check_no_link(Path(inside, name))


def _check_no_link(path: Path) -> None:
    if path.is_symlink():
        raise RunError(
            "a folder that ftx writes to must not contain links, as they could lead elsewhere",
            where=path,
            found=f"it points at {path.readlink()}",
            fix="replace the link with the folder that it points at",
        )


def is_locked(folder: Path) -> bool:
    """Whether another process is changing the folder at this moment."""
    from filelock import FileLock, Timeout

    if (folder / LOCK).is_symlink():  # no process holds it, and opening it could empty the file that it points at
        return False
    lock = FileLock(folder / LOCK)
    try:
        with disk_faults(folder), lock.acquire(timeout=0):
            return False
    except Timeout:
        return True
    except EnvironmentFault:  # without the right to write there is no lock
        return False


def place_new(staged: Path, final: Path) -> Path:
    """Move a folder to ``final``, or to ``final-2``, ``final-3``, … if that exists meanwhile; the new path."""
    for candidate in numbered(final):
        if not (candidate.exists() or candidate.is_symlink()):
            with suppress(InputError):  # it exists since the check
                place_at(staged, candidate)
                return candidate
    raise AssertionError("the numbers do not end")


def numbered(path: Path) -> Iterator[Path]:
    """``path``, ``path-2``, ``path-3``, …"""
    yield path
    yield from (path.with_name(f"{path.name}-{number}") for number in count(2))


def place_at(staged: Path, final: Path) -> None:
    """Move a folder to ``final``, which was absent when the work began.

    Raises: InputError if another program wrote one there meanwhile.
    """
    try:
        staged.rename(final)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise
        raise InputError(
            "another program created this folder at the same time",
            where=final,
            fix="move this folder to another place, then run the command again",
        ) from error
    fsync_folder(final.parent)


def replace_folder(staged: Path, final: Path) -> None:
    """Move a folder to ``final``, and replace the one that may exist there."""
    if not final.exists():
        staged.rename(final)
    else:
        # A folder cannot be renamed over one that is not empty, so the old one steps aside first.
        retired = Path(tempfile.mkdtemp(dir=final.parent, prefix=_owned_prefix()))
        final.rename(retired / final.name)
        try:
            staged.rename(final)
        except BaseException:
            (retired / final.name).rename(final)
            raise
        finally:
            shutil.rmtree(retired, ignore_errors=True)
    fsync_folder(final.parent)


def check_space(folder: Path, needed_bytes: int) -> None:
    """Check that a result fits on the disk, before the work begins.

    Raises: EnvironmentFault if fewer than ``needed_bytes`` are free.
    """
    existing = next(parent for parent in [folder.absolute(), *folder.absolute().parents] if parent.exists())
    sweep(existing, below=existing == folder.absolute())  # a folder of ours, else the one that it will lie in
    usage = shutil.disk_usage(existing)
    # A file system without blocks reports no space: then only writing shows what fits.
    if usage.total and usage.free < needed_bytes:
        raise EnvironmentFault(
            "the disk is too full",
            where=existing,
            found=f"{usage.free / 1e6:.0f} MB free, {needed_bytes / 1e6:.0f} MB needed",
            fix="delete files that you do not need, then run the command again",
        )
