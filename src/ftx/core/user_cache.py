"""A folder for what can be made again, in the user's cache: the least used go, beyond a few or beyond so many bytes.

Source: XDG Base Directory Specification, XDG_CACHE_HOME.
"""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from itertools import accumulate
from pathlib import Path

# Compiled models have the size of their weights.
KEPT = 4


def cache_folder(kind: str, digest: str, most_bytes: float | None = None) -> Path | None:
    """The folder of this digest, made where it is not there; None where the user's cache cannot be written.

    Of each kind the ``KEPT`` that were asked for last stay, or those whose files have ``most_bytes`` together.
    """
    home = os.environ.get("XDG_CACHE_HOME", "")
    try:
        above = (Path(home) if Path(home).is_absolute() else Path.home() / ".cache") / "ftx" / kind
        own = above / digest
        own.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.utime(own)
        if not os.access(own, os.W_OK):
            return None
        newest_first = sorted(above.iterdir(), key=lambda path: -path.stat().st_mtime_ns)
        if most_bytes is None:
            stay = KEPT
        else:
            together = accumulate(_size_bytes(folder) for folder in newest_first)
            stay = max(sum(size <= most_bytes for size in together), 1)
        for older in newest_first[stay:]:
            shutil.rmtree(older, ignore_errors=True)
    except (OSError, RuntimeError):  # no home folder, a disk that is read only, another process that cleans up
        return None
    return own


def _size_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def forget(folder: Path) -> None:
    """Remove a cache that did not hold."""
    with suppress(OSError):
        shutil.rmtree(folder)
