"""Which paths lead to shards, and into them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from ftx.core.addresses import address

ENDING = ".tar"
SHARDS_FILE = "shards.json"


def are_shards(path: Path) -> bool:
    """Whether a data path names tar archives, something at an address, or a folder that ``ftx data shard`` wrote."""
    return _names_archives(path) or address(path) is not None or _is(path / SHARDS_FILE, os.path.isfile)


def images_root(path: Path) -> Path:
    """Where the paths of a data set's images count from: its folder, or what the archives that it names lie in."""
    return path.parent if _names_archives(path) else path


def member_of(root: Path, path: str) -> tuple[Path, str] | None:
    """The archive that an image's path below the root leads into, and the member there; None if it leads into none."""
    before, ending, member = path.partition(f"{ENDING}/")
    if not ending:
        return None
    archive = root / f"{before}{ENDING}"
    return None if address(root) is None and _is(archive, os.path.isdir) else (archive, member)


def archives_in(folder: Path) -> str | None:
    """How to name the archives of a folder without ``shards.json``; None if it holds none."""
    names = sorted(path.name for path in folder.glob(f"*{ENDING}") if path.is_file())
    if not names:
        return None
    first, last = names[0].removesuffix(ENDING), names[-1].removesuffix(ENDING)
    numbered = first.isdecimal() and last.isdecimal() and len(names) == int(last) - int(first) + 1 > 1
    return str(folder / (f"{{{first}..{last}}}{ENDING}" if numbered else names[0]))


def _names_archives(path: Path) -> bool:
    return path.name.endswith(ENDING) and (address(path) is not None or not _is(path, os.path.isdir))


def _is(path: Path, kind: Callable[[Path], bool]) -> bool:
    """As the os module says it: Path raises for names that are too long to be any."""
    return kind(path)
