"""JSON as a stranger may have written it: plain data within bounds, or one clear refusal.

What Python's reader takes beyond the standard (RFC 8259) or gives up on in its own ways is refused here, once for
every document that ftx reads: NaN and infinities, whole numbers beyond 64 bits, half a character (a lone surrogate),
a key given twice, nesting without end, and files of a size that no document of that kind has.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import NoReturn

from ftx.core.untrusted_files import open_file

# A run's manifest of a hundred thousand labels takes some ten.
MOST_BYTES = 64 << 20
# The documents that ftx reads have six.
MOST_LEVELS = 64
# A string that does not end goes to the end: begun anew at each of its quotes, the search would take quadratic time.
_STRING_OR_BRACKET = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)|[\[\]{}]', re.DOTALL)
_WHOLE = -(1 << 63), 1 << 63
_SURROGATE = re.compile("[\ud800-\udfff]")


class JsonError(ValueError):
    """Text that is not the plain JSON we take; the message says why."""


def read_json(path: Path, *, most_bytes: int = MOST_BYTES) -> object:
    """Read one JSON document as dicts, lists, text, numbers, booleans and None.

    Raises: OSError if the file cannot be read, or is no regular one; JsonError if it is too large, or holds what we do
    not take.
    """
    with open_file(path) as stream:
        content = stream.read(most_bytes + 1)
    if len(content) > most_bytes:
        raise JsonError(f"more than {most_bytes} bytes")
    return parse_json(content)


def parse_json(content: bytes | str) -> object:
    """Read one JSON document from its text.

    Raises: JsonError if it is not well formed or holds what we do not take.
    """
    try:
        text = content if isinstance(content, str) else content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise JsonError(f"it is not UTF-8 text: {error.reason} at byte {error.start}") from error
    _refuse_depth(text)
    try:
        value: object = json.loads(
            text,
            object_pairs_hook=_unique,
            parse_int=_whole,
            parse_float=_finite,
            parse_constant=_no_number,
        )
    except JsonError:
        raise
    except ValueError as error:
        raise JsonError(str(error)) from error
    if "\\u" in text:  # an escape is the only way to half a character: bytes that hold one are not UTF-8
        refuse_extremes(value)
    return value


def _refuse_depth(text: str) -> None:
    level = 0
    for found in _STRING_OR_BRACKET.finditer(text):
        first = found[0][0]
        if first in "[{":
            level += 1
            if level > MOST_LEVELS:
                raise JsonError(f"nested too deeply, in more than {MOST_LEVELS} levels")
        elif first != '"':
            level -= 1


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise JsonError(f"the key {_short(twice)} stands twice in one place")
    return found


def _whole(digits: str) -> int:
    if len(digits) > 20 or not _WHOLE[0] <= int(digits) < _WHOLE[1]:
        raise JsonError(f"a whole number beyond 64 bits: {_short(digits)}")
    return int(digits)


def _finite(digits: str) -> float:
    number = float(digits)
    if number in (float("inf"), float("-inf")):
        raise JsonError(f"a number beyond 64 bits: {_short(digits)}")
    return number


def _no_number(word: str) -> NoReturn:
    raise JsonError(f"{word} is no number")


def refuse_extremes(value: object) -> None:
    """Raise JsonError where plain data holds half a character or a whole number beyond 64 bits."""
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, str):
            if _SURROGATE.search(one):
                raise JsonError(f"half a character (a lone surrogate) in {_short(one)}")
        elif isinstance(one, int):
            if not _WHOLE[0] <= one < _WHOLE[1]:
                raise JsonError("a whole number beyond 64 bits")
        elif isinstance(one, dict):
            waiting += one.keys()  # pyright: ignore[reportUnknownArgumentType]
            waiting += one.values()  # pyright: ignore[reportUnknownArgumentType]
        elif isinstance(one, list):
            waiting += one  # pyright: ignore[reportUnknownArgumentType]


def _short(text: str) -> str:
    return ascii(text if len(text) <= 40 else f"{text[:37]}...")
