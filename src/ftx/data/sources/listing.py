"""What every source of images returns: files with their labels, and the relations of the labels.

Paths, labels and splits in it are untrusted input: each is checked here, whatever file it comes from.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Literal, cast

from ftx.core.addresses import Location, names_address
from ftx.core.errors import DataError, listed
from ftx.data.dataset import SPLITS, Split
from ftx.tasks.labels import LabelDeclaration

# Endings of the formats that Pillow reads from its own wheel and that photographs and scans come in.
IMAGE_ENDINGS = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".dib", ".gif", ".tif", ".tiff"}
    | {".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k", ".avif"}
)

# Class folders; train/, val/, test/ of them; CSV or JSON lines; COCO; Datumaro's own JSON; what datumaro reads; tar.
Layout = Literal["folders", "splits", "table", "coco", "datumaro", "foreign", "shards"]

# Each pair may be mutually exclusive, which takes the square of their number; the densest of LVIS's images have tens.
MOST_LABELS_OF_AN_IMAGE = 1000

# Some commands have the flag, those of a recipe the key.
FOLLOW_LINKS = "--follow-links, or --set data.follow_links=true"

SPLIT_WORDS: dict[str, Split] = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}


@dataclass(frozen=True, slots=True)
class ListedImage:
    """An image file: its path as in the data set, its labels, the split it is put into, and whom or what it shows."""

    path: str
    labels: tuple[str, ...]
    split: Split | None
    group: str | None = None


@dataclass(frozen=True)
class Listing:
    """Every image of a data set, below ``root``; ``ignored`` counts other files by ending.

    ``repeated`` names lines of a table that repeat an earlier one.
    """

    root: Location
    layout: Layout
    files: tuple[ListedImage, ...]
    declared: LabelDeclaration = field(default_factory=LabelDeclaration)
    ignored: Mapping[str, int] = field(default_factory=dict[str, int])
    repeated: tuple[str, ...] = ()


class ImageCollector:
    """The images that a source lists, each path once, and the problems of its entries."""

    def __init__(self) -> None:
        self.images: dict[str, ListedImage] = {}
        self.problems: list[str] = []

    @contextmanager
    def entry(self, name: str) -> Generator[None, None, None]:
        """Make a problem of this entry from a ValueError in the block."""
        try:
            yield
        except ValueError as error:
            self.problems.append(f"{name}: {error}")

    def add(self, image: ListedImage) -> None:
        """Raises: ValueError if its path is listed already."""
        if self.images.setdefault(image.path, image) is not image:
            raise ValueError(f"{short(image.path)} is listed twice")

    def check(self, what: str, where: Location, fix: str) -> None:
        """Raise DataError with all problems, if there are any."""
        if self.problems:
            raise DataError(f"{what}: {len(self.problems)}", where=where, found=listed(self.problems), fix=fix)


def split_named(name: str) -> Split | None:
    """The split that a word, or a file's name such as ``instances_val2017``, names; None if it names none."""
    words = re.findall(r"[a-z]+", name.lower())
    return next((SPLIT_WORDS[word] for word in words if word in SPLIT_WORDS), None)


def path_below(root: Path, *, follow_links: bool = False) -> Callable[[str], str]:
    """A function from an image's path as a data set spells it to its path below ``root``, with forward slashes.

    It raises ValueError if the path is absolute, or leaves the root by itself or, unless they are followed, by a link.
    """
    if follow_links:
        return relative_path
    real = os.path.realpath(root)

    @cache  # following links takes a question to the system for each folder on the way
    def real_folder(name: str) -> str:
        return os.path.realpath(os.path.join(real, name))  # noqa: PTH118  a Path for each of 100,000 images takes a second

    def within(name: str) -> str:
        path = relative_path(name)
        folder, _, last = path.rpartition("/")
        file = f"{real_folder(folder)}/{last}"
        if os.path.islink(file):  # noqa: PTH114
            file = os.path.realpath(file)
        if not f"{file}/".startswith(f"{real.rstrip('/')}/"):
            raise ValueError(
                f"{short(name)} is a link that leaves the data folder; if you trust it, add {FOLLOW_LINKS}"
            )
        return path

    return within


def relative_path(name: str) -> str:
    """A path as a data set spells it, with forward slashes.

    Raises: ValueError if it is none, an address, absolute, or leaves where it counts from.
    """
    if "\0" in name or _SURROGATE.search(name) or len(name) > _LONGEST_PATH:
        raise ValueError(f"{short(name)} is not a path of a file")
    if names_address(name):
        raise ValueError(f"{short(name)} is a URL, and must be a path")
    path = PurePosixPath(name.replace("\\", "/"))
    if not path.parts:
        raise ValueError("the path is empty")
    if path.is_absolute() or re.match(r"[A-Za-z]:", path.parts[0]):
        raise ValueError(f"{short(name)} is absolute, and must be relative to the data folder")
    if ".." in path.parts:
        raise ValueError(f"{short(name)} leaves the data folder")
    if len(max(path.parts, key=len).encode()) > _LONGEST_NAME:
        raise ValueError(f"{short(name)} is too long")
    return path.as_posix()


# Linux's bounds of a path in characters and of a name in bytes.
_LONGEST_PATH = 4095
_LONGEST_NAME = 255
# Half a character, as JSON can escape it: no file system of UTF-8 names has it.
_SURROGATE = re.compile("[\ud800-\udfff]")
# A label may be the path of a folder.
_LONGEST_LABEL = _LONGEST_PATH


def short(value: object) -> str:
    """An untrusted value for a message: the beginning of a text, of anything else its kind."""
    if isinstance(value, bool | float | None) or (isinstance(value, int) and value.bit_length() <= 64):
        return str(value)
    if not isinstance(value, str):
        return f"a {type(value).__name__}"
    text = value if value.isprintable() else ascii(value[:100])[1:-1]
    return text if len(text) <= 100 else f"{text[:97]}..."


def check_link_inside(real_root: Path, path: Path) -> None:
    """Raise DataError if a path below the data root, or a folder on its way, is a link that leads out of the root."""
    target = Path(os.path.realpath(path))  # as Path.resolve raises on a link that points at itself
    if not target.is_relative_to(real_root):
        raise DataError(
            "a link must not lead out of the data folder",
            where=path,
            found=f"it points at {target}",
            fix=f"copy the target of the link into the folder, or if you trust it, add {FOLLOW_LINKS}",
        )


def label_name(text: str) -> str:
    """A label's name, without the blanks around it.

    Raises: ValueError if nothing is left, or what is left cannot be written or shown.
    """
    name = text.strip()
    if not name:
        raise ValueError("a label must have a name")
    if not name.isprintable():  # control characters, line ends, lone surrogates
        raise ValueError(f"'{short(name)}' contains characters that cannot be printed")
    if len(name) > _LONGEST_LABEL:
        raise ValueError(f"'{short(name)}' has {len(name):,} characters, at most {_LONGEST_LABEL:,}")
    return name


def labels_in(cell: object) -> tuple[str, ...]:
    """The labels of an image, in one order: of a list each, of a text those between its semicolons.

    Raises: ValueError for what is no label, and for more than ``MOST_LABELS_OF_AN_IMAGE``.
    """
    cells: list[object] = [cell]
    if isinstance(cell, list):
        cells = cast("list[object]", cell)
    if strange := [one for one in cells if isinstance(one, bool) or not isinstance(one, str | int | None)]:
        raise ValueError(f"{short(strange[0])} is not a label")
    # A number is one of Hugging Face's: 0 is a label as well.
    parts = ["" if one is None else _digits(one) for one in cells if one is None or isinstance(one, str | int)]
    named = [part.strip().strip("/") for text in parts for part in (text.split(";") if cells == [cell] else [text])]
    # In one order, so that a copy with its labels written the other way round does not contradict.
    labels = tuple(sorted({label_name(name) for name in named if name}))
    if len(labels) > MOST_LABELS_OF_AN_IMAGE:
        raise ValueError(f"{len(labels):,} labels, at most {MOST_LABELS_OF_AN_IMAGE:,} of one image")
    return labels


def name_in(cell: object, what: str) -> str:
    """A cell that is a name, or empty; a number is its digits.

    Raises: ValueError for anything else.
    """
    if cell is None or (isinstance(cell, str | int) and not isinstance(cell, bool)):
        text = "" if cell is None else _digits(cell)
        return label_name(text) if text.strip() else ""
    raise ValueError(f"{short(cell)} is not a {what}")


def split_in(cell: object) -> Split | None:
    """The split that a cell names; None for one that is empty.

    Raises: ValueError for anything else.
    """
    word = name_in(cell, "split")
    split = split_named(word)
    if word and split is None:
        raise ValueError(f"the split '{short(word)}' must be one of {', '.join(SPLITS)}")
    return split


def _digits(cell: str | int) -> str:
    if isinstance(cell, int) and cell.bit_length() > 64:
        raise ValueError("a label that is a number must fit in 64 bits")
    return str(cell)
