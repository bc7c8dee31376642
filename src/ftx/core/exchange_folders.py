"""Two folders that swap their names in one step, so that no reader and no crash ever finds one missing."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

from ftx.core.disk import fsync_folder
from ftx.core.errors import EnvironmentFault

# linux/fcntl.h and linux/fs.h
_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


def exchange_folders(one: Path, other: Path) -> None:
    """Swap two folders of one file system, for good: the swap is on the disk afterwards.

    Raises: EnvironmentFault where the system has no such call, as some file systems have none.
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
        "this file system cannot swap two folders", where=other, found=found, fix="choose a folder on another one"
    )
