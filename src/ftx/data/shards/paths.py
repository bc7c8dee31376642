"""Which paths lead to shards, and into them."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import overload

from ftx.core.addresses import Address, Location

ENDING = ".tar"
SHARDS_FILE = "shards.json"
_NUMBERED = re.compile(rf"(.*?)(\d+){re.escape(ENDING)}")


def are_shards(path: Location) -> bool:
    """Whether a data path names tar archives, something at an address, or a folder that ``ftx data shard`` wrote."""
    return isinstance(path, Address) or _names_archives(path) or _is(path / SHARDS_FILE, os.path.isfile)


@overload
def images_root(path: Path) -> Path: ...
@overload
def images_root(path: Location) -> Location: ...
def images_root(path: Location) -> Location:
    """Where the paths of a data set's images count from: its folder, or what the archives that it names lie in."""
    return path.parent if _names_archives(path) else path


def member_of(root: Location, path: str) -> tuple[Location, str] | None:
    """The archive that an image's path below the root leads into, and the member there; None if it leads into none."""
    before, ending, member = path.partition(f"{ENDING}/")
    if not ending:
        return None
    archive = root / f"{before}{ENDING}"
    return None if isinstance(archive, Path) and _is(archive, os.path.isdir) else (archive, member)


def archives_in(folder: Path) -> str | None:
    """How to name the archives of a folder without ``shards.json``; None if it holds none."""
    names = sorted(path.name for path in folder.glob(f"*{ENDING}") if path.is_file())
    if len(names) < 2:
        return f"'{folder / names[0]}'" if names else None
    stem, first = _NUMBERED.fullmatch(names[0]), names[0]
    if stem is not None:
        before, digits = stem.groups()
        last = int(digits) + len(names) - 1
        if names == [f"{before}{number:0{len(digits)}d}{ENDING}" for number in range(int(digits), last + 1)]:
            return f"'{folder}/{before}{{{digits}..{last:0{len(digits)}d}}}{ENDING}'"
    return f"{len(names)}, such as '{folder / first}', and several as '{folder}/{{one,another}}{ENDING}'"


def _names_archives(path: Location) -> bool:
    return path.name.endswith(ENDING) and (isinstance(path, Address) or not _is(path, os.path.isdir))


def _is(path: Path, kind: Callable[[Path], bool]) -> bool:
    """As the os module says it: Path raises for names that are too long to be any."""
    return kind(path)
