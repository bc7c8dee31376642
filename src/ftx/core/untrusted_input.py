"""Files from others: opened only if they are regular files, and JSON only if it is plain data within bounds.

A pipe would block for ever, and a device has no end. Of JSON, everything that Python's reader takes beyond the standard
(RFC 8259), or fails on in its own ways, is one clear error, for every document that ftx reads: NaN and infinities,
integers beyond 64 bits, half a character (a lone surrogate), a duplicate key, deep nesting, and files of a size that no
document of that kind has.
"""

from __future__ import annotations

import errno
import json
import os
import re
import stat
from io import BufferedReader
from pathlib import Path
from typing import NoReturn

from ftx.core.errors import InputError

# Limits for the parts of a model, for files of others and for slips of the keyboard. Each is well above what models
# have, and below what would take all the memory before anything else is checked.
# A side in pixels of the image that goes into a network: timm's largest is 1,024, and at this one an image takes 200 MB
# in f32.
MOST_SIDE = 4096
# The sides of what an image is resized to before the centre is cut out of it.
MOST_BOX = 2 * MOST_SIDE
# The mean and the std of a channel on the 0..1 scale: what is normalised by them stays far from the ends of f32.
# timm's are between 0 and 1; a network that was trained on grey levels up to 255 has a std of 1/255.
MOST_MEAN = 1_000.0
LEAST_STD, MOST_STD = 1e-4, 1_000.0
# Logits; the widest head of timm has 21,843.
MOST_LABELS = 65_536
# Levels of a tree, of labels or of folders; WordNet's deepest noun has 19, the tree of life's some 40.
MOST_TREE_LEVELS = 100
# A rank of an adapter, a width, a number of tokens or of heads.
MOST_WIDTH = 65_536
# Blocks of a network; more than any has.
MOST_DEPTH = 10_000
# Characters of a regular expression; that of all layers of timm's deepest model has some ten thousand.
MOST_EXPRESSION = 65_536

_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)

# A run's manifest of a hundred thousand labels takes some ten.
MOST_BYTES = 64 << 20
# The documents that ftx reads have six.
MOST_LEVELS = 64
# A string without an end reaches to the end of the text: with backtracking at each quote the time would be quadratic.
_STRING_OR_BRACKET = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)|[\[\]{}]', re.DOTALL)
_INTEGERS = range(-(1 << 63), 1 << 63)
_SURROGATE = re.compile("[\ud800-\udfff]")


class IrregularFile(InputError, OSError):
    """A path that is no regular file; an OSError too, for code that reports why a file cannot be read."""

    def __init__(self, path: Path, mode: int) -> None:
        found = next((kind for is_kind, kind in _KINDS if is_kind(mode)), "something else")
        super().__init__("this must be a regular file", where=path, found=found, fix="give the path of a regular file")
        self.errno, self.strerror, self.filename = errno.EINVAL, f"{found}, not a regular file", str(path)

    def __str__(self) -> str:
        return f"{self.what}: {self.found}"


def require_file(path: Path) -> None:
    """Check that a path is a regular file, before a library opens it by its name.

    Raises: IrregularFile; OSError if there is nothing.
    """
    _check_regular(path, path.stat().st_mode)


def _check_regular(path: Path, mode: int) -> None:
    if not stat.S_ISREG(mode):
        raise IrregularFile(path, mode)


def open_file(path: Path) -> BufferedReader:
    """Open a regular file to read its bytes.

    Raises: IrregularFile; OSError if there is nothing, or it may not be read.
    """
    require_file(path)  # opening a device may move it
    # A pipe that replaced the file meanwhile must not block either.
    number = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        _check_regular(path, os.fstat(number).st_mode)
        return os.fdopen(number, "rb")
    except BaseException:
        os.close(number)
        raise


def read_file(path: Path, most_bytes: int | None = None) -> bytes:
    """All bytes of a regular file, if they are not more than ``most_bytes``.

    Raises: IrregularFile; InputError if it is larger; OSError if there is nothing, or it may not be read.
    """
    with open_file(path) as stream:
        size_bytes = os.fstat(stream.fileno()).st_size
        if most_bytes is not None and size_bytes > most_bytes:
            found = f"{size_bytes / 1e6:,.1f} MB of at most {most_bytes / 1e6:,.1f}"
            raise InputError("the file is too large", where=path, found=found, fix="give a smaller file")
        return stream.read()


class JsonError(ValueError):
    """Text that is not the plain JSON that ftx reads; the message names the reason."""


def read_json(path: Path, *, most_bytes: int = MOST_BYTES) -> object:
    """Read one JSON document as dicts, lists, text, numbers, booleans and None.

    Raises: OSError if the file cannot be read, or is no regular one; JsonError if it is too large, or as parse_json.
    """
    with open_file(path) as stream:
        content = stream.read(most_bytes + 1)
    if len(content) > most_bytes:
        raise JsonError(f"more than {most_bytes} bytes")
    return parse_json(content)


def parse_json(content: bytes | str) -> object:
    """Read one JSON document from its text.

    Raises: JsonError if it is not well formed or not plain data within bounds.
    """
    try:
        text = content if isinstance(content, str) else content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise JsonError(f"it is not UTF-8 text: {error.reason} at byte {error.start}") from error
    _check_depth(text)
    try:
        value: object = json.loads(
            text,
            object_pairs_hook=_unique,
            parse_int=_integer,
            parse_float=_finite,
            parse_constant=_no_number,
        )
    except JsonError:
        raise
    except ValueError as error:
        raise JsonError(str(error)) from error
    if "\\u" in text:  # an escape is the only way to half a character: bytes that hold one are not UTF-8
        check_extremes(value)
    return value


def _check_depth(text: str) -> None:
    level = 0
    for found in _STRING_OR_BRACKET.finditer(text):
        first = found[0][0]
        if first in "[{":
            level += 1
            if level > MOST_LEVELS:
                raise JsonError(f"the JSON must have at most {MOST_LEVELS} levels")
        elif first != '"':
            level -= 1


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise JsonError(f"the key {_short(twice)} appears twice in one object")
    return found


def _integer(digits: str) -> int:
    if len(digits) > 20 or int(digits) not in _INTEGERS:
        raise JsonError(f"numbers must fit in 64 bits: {_short(digits)}")
    return int(digits)


def _finite(digits: str) -> float:
    number = float(digits)
    if number in (float("inf"), float("-inf")):
        raise JsonError(f"numbers must fit in 64 bits: {_short(digits)}")
    return number


def _no_number(word: str) -> NoReturn:
    raise JsonError(f"{word} is not a number")


def check_extremes(value: object) -> None:
    """Raise JsonError if plain data contains half a character or an integer beyond 64 bits."""
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, str):
            if _SURROGATE.search(one):
                raise JsonError(f"half a character (a lone surrogate) in {_short(one)}")
        elif isinstance(one, int):
            if one not in _INTEGERS:
                raise JsonError("numbers must fit in 64 bits")
        elif isinstance(one, dict):
            waiting += [*one.keys(), *one.values()]  # pyright: ignore[reportUnknownArgumentType]
        elif isinstance(one, list):
            waiting += one  # pyright: ignore[reportUnknownArgumentType]


def _short(text: str) -> str:
    return ascii(text if len(text) <= 40 else f"{text[:37]}...")
