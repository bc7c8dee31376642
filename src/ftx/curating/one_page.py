"""One page at a time chooses in a table: of two, each would count and show its own choices alone."""

from __future__ import annotations

import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from ftx.core.errors import InputError
from ftx.curating.known_images import images_file


@contextmanager
def claimed(table: Path) -> Generator[None, None, None]:
    """Keep other programs from choosing in a table for the block; the system lets go of it if this one is killed.

    Raises: InputError if another one does. Where the system has no such locks, none is kept.
    """
    if sys.platform == "win32":
        yield
        return
    from fcntl import LOCK_EX, LOCK_NB, flock

    with images_file(table).open("rb") as beside:  # written once a look, while the table is replaced at each choice
        try:
            flock(beside, LOCK_EX | LOCK_NB)
        except BlockingIOError:
            raise InputError(
                "another ftx data look shows this table", where=table, fix="choose in its page, or end it; or --out CSV"
            ) from None
        yield


def check_unclaimed(table: Path) -> None:
    """Raise InputError if another program chooses in the table now."""
    if images_file(table).is_file():
        with claimed(table):
            return
