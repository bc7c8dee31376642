"""Folders in the user's cache for files that can be made again: beyond a number or a size, the least used are removed.

Source: XDG Base Directory Specification, XDG_CACHE_HOME.
"""

from __future__ import annotations

import os
import shutil
from contextlib import ExitStack, suppress
from pathlib import Path

from filelock import FileLock, Timeout

# A compiled model has the size of its weights.
KEPT = 4


def cache_folder(kind: str, digest: str, *, keep: int | None = KEPT) -> Path | None:
    """The folder of this digest, made if it does not exist; None if the user's cache cannot be written.

    Of each kind the ``keep`` last used stay; with None all, and ``free_space`` removes them.
    """
    home = os.environ.get("XDG_CACHE_HOME", "")
    try:
        above = (Path(home) if Path(home).is_absolute() else Path.home() / ".cache") / "ftx" / kind
        own = above / digest
        own.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.utime(own)
        if not os.access(own, os.W_OK):
            return None
        for older in _last_used_first(above)[keep:] if keep is not None else ():
            shutil.rmtree(older, ignore_errors=True)
    except (OSError, RuntimeError):  # no home folder, a disk that is read only, another process that cleans up
        return None
    return own


def free_space(own: Path, own_bytes: float, most_bytes: float) -> None:
    """Remove the least used other folders until, with ``own_bytes`` in this one, all together have ``most_bytes``.

    Folders in which a process holds a lock, a file ``.lock``, stay.
    """
    with suppress(OSError):
        left_bytes = most_bytes - max(own_bytes, _size_bytes(own))
        for other in _last_used_first(own.parent):
            if other == own:
                continue
            left_bytes -= _size_bytes(other)
            if left_bytes < 0:
                _remove_unused(other)


def _remove_unused(folder: Path) -> None:
    """Remove a folder in which no process writes, and let none begin meanwhile."""
    with ExitStack() as held:
        try:
            for lock in folder.rglob(".lock"):
                held.enter_context(FileLock(lock, timeout=0))
        except Timeout:
            return
        shutil.rmtree(folder, ignore_errors=True)


def _last_used_first(above: Path) -> list[Path]:
    return sorted(above.iterdir(), key=lambda path: -path.stat().st_mtime_ns)


def _size_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def forget(folder: Path) -> None:
    """Remove a damaged cache."""
    with suppress(OSError):
        shutil.rmtree(folder)
