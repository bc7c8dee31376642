"""What each source of ``tests.benchmarks.datasets`` yields: pictures with a label and a group."""

from __future__ import annotations

import hashlib
import struct
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from PIL import Image

# The files of a data set, by their paths.
Contents = dict[str, bytes]

# No image is larger: ftx trains on 112 or 224 pixels.
LARGEST = 224


@dataclass(frozen=True)
class Item:
    """A picture of a source; pictures of one ``group`` stay in one part."""

    name: str
    label: str
    group: str
    draw: Callable[[], Image.Image]


def draws(*what: object) -> Iterator[int]:
    """Eight numbers below 2^32 that belong to one thing, the same in every version of every library."""
    return iter(struct.unpack(">8I", hashlib.sha256(":".join(map(str, what)).encode()).digest()))


def rank(*what: object) -> float:
    """A number in [0, 1) that belongs to one thing."""
    return next(draws(*what)) / 2**32


def picture(file: Path | BinaryIO, paper: int = 255, largest: int = LARGEST) -> Image.Image:
    """A file as RGB on grey ``paper``, reduced to ``largest`` pixels a side if it is larger."""
    with Image.open(file) as opened:
        image = opened.convert("RGBA")
    flat = Image.new("RGBA", image.size, (paper, paper, paper, 255))
    flat.alpha_composite(image)
    flat.thumbnail((largest, largest), Image.Resampling.LANCZOS)
    return flat.convert("RGB")


def few_of_each_group(items: Iterable[Item], most: int) -> Iterator[Item]:
    """At most ``most`` items of each label and group, drawn by their names."""
    of_group: Counter[tuple[str, str]] = Counter()
    for item in sorted(items, key=lambda item: next(draws("few", item.label, item.name))):
        of_group[item.label, item.group] += 1
        if of_group[item.label, item.group] <= most:
            yield item
