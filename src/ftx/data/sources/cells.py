"""What a cell of a table, or a value beside an image, says: labels, or a name."""

from __future__ import annotations

from typing import cast

from ftx.data.dataset import SPLITS, Split
from ftx.data.sources.listing import label_name, short, split_named

# Each may exclude each other, which takes the square of their number; the densest of LVIS's images have tens.
MOST_LABELS_OF_AN_IMAGE = 1000


def labels_in(cell: object) -> tuple[str, ...]:
    """The labels of an image, in one order: of a list each, of a text those between its semicolons.

    Raises: ValueError for what is no label, and for more than ``MOST_LABELS_OF_AN_IMAGE``.
    """
    cells: list[object] = [cell]
    if isinstance(cell, list):
        cells = cast("list[object]", cell)
    if strange := [one for one in cells if isinstance(one, bool) or not isinstance(one, str | int | None)]:
        raise ValueError(f"{short(strange[0])} is no label")
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
    raise ValueError(f"{short(cell)} is no {what}")


def split_in(cell: object) -> Split | None:
    """The split that a cell names; None for one that is empty.

    Raises: ValueError for anything else.
    """
    word = name_in(cell, "split")
    split = split_named(word)
    if word and split is None:
        raise ValueError(f"the split '{short(word)}' is none of {', '.join(SPLITS)}")
    return split


def _digits(cell: str | int) -> str:
    if isinstance(cell, int) and cell.bit_length() > 64:
        raise ValueError("a whole number beyond 64 bits is no name")
    return str(cell)
