"""The types of a recipe's values: each takes what YAML, a flag or Python gives and hands it on in one form."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, PlainSerializer
from pydantic_core import PydanticCustomError

from ftx.core.addresses import as_typed
from ftx.core.untrusted_input import MOST_EXPRESSION, MOST_LABELS, MOST_SIDE

# Epochs and batches: more than anyone waits for, and few enough to be counted with.
MOST_COUNTED = 1_000_000_000
# Of a path, as Linux has it.
_LONGEST_TEXT = 4096


def no_bool(value: object) -> object:
    """A number as it is, but no boolean."""
    # Python counts True as 1, so `rank: true` would pass for a number.
    if isinstance(value, bool):
        raise PydanticCustomError("ftx", "must be a number")
    return value


def auto_or_count(value: object) -> object:
    """``auto``, or a whole number of 1 or more."""
    if value == "auto":
        return value
    text = str(value).strip()
    if isinstance(value, bool) or not text.isdecimal() or int(text) < 1:
        raise PydanticCustomError("ftx", "must be 'auto' or a whole number of 1 or more")
    if int(text) > MOST_LABELS:
        raise PydanticCustomError("ftx", "must be at most {most}", {"most": MOST_LABELS})
    return int(text)


def auto_or_size(value: object) -> object:
    """``auto``, the side of a square, or ``HEIGHTxWIDTH``."""
    sides = [side.strip() for side in str(value).split("x")]
    if value == "auto":
        return value
    if isinstance(value, bool) or len(sides) > 2 or not all(side.isdecimal() and int(side) > 0 for side in sides):
        raise PydanticCustomError("ftx", "must be 'auto', a whole number of 1 or more, or HEIGHTxWIDTH as in 224x160")
    height, width = int(sides[0]), int(sides[-1])
    if max(height, width) > MOST_SIDE:
        raise PydanticCustomError("ftx", "must be at most {most} a side", {"most": MOST_SIDE})
    return height if height == width else f"{height}x{width}"


def true_or_false(value: object) -> object:
    """A boolean, or its word."""
    words = {"true": True, "false": False}
    if isinstance(value, bool):
        return value
    if not isinstance(value, str) or value not in words:
        raise PydanticCustomError("ftx", "must be true or false")
    return words[value]


def expression(value: object) -> object:
    """A regular expression of layers' names, or ``auto``."""
    if not isinstance(value, str) or not value.strip():
        raise PydanticCustomError("ftx", "must be 'auto' or a regular expression of layers' whole names")
    if len(value) > MOST_EXPRESSION:
        raise PydanticCustomError("ftx", "must have at most {most} characters", {"most": MOST_EXPRESSION})
    try:
        re.compile(value)
    except (re.error, OverflowError, RecursionError) as error:
        raise PydanticCustomError("ftx", "is no regular expression: {error}", {"error": str(error)}) from error
    return value


def plain_path(value: object) -> object:
    """The path of a folder."""
    return value if isinstance(value, Path) else _not_empty(value, "the path of a folder")


def plain_text(value: object) -> object:
    """Text that is not empty."""
    return str(value) if isinstance(value, Path) else _not_empty(value, "text")


def _not_empty(value: object, wanted: str) -> str:
    if not isinstance(value, str) or not value.strip() or "\0" in value or len(value) > _LONGEST_TEXT:
        raise PydanticCustomError("ftx", "must be {wanted}", {"wanted": wanted})
    return value


def auto_or_rate(value: object) -> object:
    """``auto``, or a number above 0."""
    rate = _number_or_nan(value)
    if value == "auto":
        return value
    if not (math.isfinite(rate) and rate > 0):
        raise PydanticCustomError("ftx", "must be 'auto' or a number above 0")
    return rate


def auto_or_share(value: object) -> object:
    """``auto``, or a number from 0 to below 1."""
    share = _number_or_nan(value)
    if value == "auto":
        return value
    if not 0 <= share < 1:
        raise PydanticCustomError("ftx", "must be 'auto' or a number from 0 to below 1")
    return share


def _number_or_nan(value: object) -> float:
    try:
        return math.nan if isinstance(value, bool) else float(str(value))
    except ValueError:
        return math.nan


_Sides = Annotated[str, Field(pattern=r"^[1-9]\d*x[1-9]\d*$")]
Seed = Annotated[int, BeforeValidator(no_bool), Field(ge=0, lt=2**63)]
Count = Annotated[int, BeforeValidator(no_bool), Field(ge=1, le=MOST_COUNTED)]
CountOrAuto = Annotated[Literal["auto"] | int, BeforeValidator(auto_or_count)]
SizeOrAuto = Annotated[Literal["auto"] | int | _Sides, BeforeValidator(auto_or_size)]
Number = Annotated[float, BeforeValidator(no_bool), Field(allow_inf_nan=False)]
RateOrAuto = Annotated[Literal["auto"] | float, BeforeValidator(auto_or_rate)]
ShareOrAuto = Annotated[Literal["auto"] | float, BeforeValidator(auto_or_share)]
Switch = Annotated[bool, BeforeValidator(true_or_false)]
Text = Annotated[str, BeforeValidator(plain_text)]
FolderPath = Annotated[Path, BeforeValidator(plain_path), PlainSerializer(as_typed, when_used="json")]
LayerExpression = Annotated[str, BeforeValidator(expression)]
