"""What every source of images answers: files with their labels, and what it says of the labels beside them."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Literal

from ftx.data.dataset import Split
from ftx.errors import DataError
from ftx.labels import Declared

# Endings of the formats that Pillow reads from its own wheel and that photographs and scans come in.
IMAGE_ENDINGS = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".dib", ".gif", ".tif", ".tiff"}
    | {".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k", ".avif"}
)

# Class folders; train/, val/, test/ of them; CSV or JSON lines; COCO; Datumaro's own JSON; what datumaro reads.
Layout = Literal["folders", "splits", "table", "coco", "datumaro", "foreign"]

_SIDES: dict[str, Split] = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}


@dataclass(frozen=True)
class Found:
    """An image file: its path as in the data set, its labels, the side it is put on, and whom or what it shows."""

    path: str
    labels: tuple[str, ...]
    split: Split | None
    group: str | None = None


@dataclass(frozen=True)
class Listing:
    """Every image of a data set, below ``root``; ``ignored`` counts other files by ending."""

    root: Path
    layout: Layout
    files: tuple[Found, ...]
    declared: Declared = field(default_factory=Declared)
    ignored: Mapping[str, int] = field(default_factory=dict[str, int])


def side_of(name: str) -> Split | None:
    """The side that a word, or a file's name such as ``instances_val2017``, speaks of; None if of none."""
    words = re.findall(r"[a-z]+", name.lower())
    return next((_SIDES[word] for word in words if word in _SIDES), None)


def inside(root: Path) -> Callable[[str], str]:
    """What gives an image's path below the data root, with forward slashes.

    It raises ValueError if the path is absolute, or leaves the root by itself or by a link.
    """
    real = Path(os.path.realpath(root))

    def within(name: str) -> str:
        path = PurePosixPath(name.replace("\\", "/"))
        if not path.parts:
            raise ValueError("no path")
        if path.is_absolute() or re.match(r"[A-Za-z]:", path.parts[0]):
            raise ValueError(f"{name} is absolute, and must count from the data folder")
        if ".." in path.parts:
            raise ValueError(f"{name} leaves the data folder")
        if "\0" in name or not Path(os.path.realpath(real / path)).is_relative_to(real):
            raise ValueError(f"{name} is a link that leaves the data folder")
        return path.as_posix()

    return within


def refuse_outside(real_root: Path, path: Path) -> None:
    """Raise DataError if a path below the data root, or a folder on its way, is a link that leads out of the root."""
    target = Path(os.path.realpath(path))  # as Path.resolve raises on a link that points at itself
    if not target.is_relative_to(real_root):
        raise DataError(
            "a link leads out of the data folder",
            where=path,
            found=f"it points at {target}",
            mend="copy what it points at into the folder",
        )


def label_name(text: str) -> str:
    """A label's name, without the blanks around it.

    Raises: ValueError if nothing is left, or what is left cannot be written or shown.
    """
    name = text.strip()
    if not name:
        raise ValueError("a label without a name")
    if not name.isprintable():  # control characters, line ends, lone surrogates
        raise ValueError(f"{name!a} holds characters that cannot be shown")
    return name
