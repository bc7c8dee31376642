"""A folder for what can be made again, in the user's cache: at most a few, the least used of which go.

Source: XDG Base Directory Specification, XDG_CACHE_HOME.
"""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path

# Compiled models have the size of their weights.
KEPT = 4


def cache_folder(kind: str, digest: str) -> Path | None:
    """The folder of this digest, made where it is not there; None where the user's cache cannot be written.

    Of each kind the ``KEPT`` that were asked for last stay.
    """
    home = os.environ.get("XDG_CACHE_HOME", "")
    try:
        above = (Path(home) if Path(home).is_absolute() else Path.home() / ".cache") / "ftx" / kind
        own = above / digest
        own.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.utime(own)
        if not os.access(own, os.W_OK):
            return None
        for older in sorted(above.iterdir(), key=lambda path: -path.stat().st_mtime_ns)[KEPT:]:
            shutil.rmtree(older, ignore_errors=True)
    except (OSError, RuntimeError):  # no home folder, a disk that is read only, another process that cleans up
        return None
    return own


def forget(folder: Path) -> None:
    """Remove a cache that did not hold."""
    with suppress(OSError):
        shutil.rmtree(folder)
