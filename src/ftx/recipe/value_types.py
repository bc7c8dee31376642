"""The types of a recipe's values: each takes what YAML, a flag or Python gives and hands it on in one form."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Literal, cast

from pydantic import BeforeValidator, Field, PlainSerializer
from pydantic_core import PydanticCustomError

from ftx.core.addresses import as_typed
from ftx.core.untrusted_input import MOST_DEPTH, MOST_EXPRESSION, MOST_LABELS, MOST_SIDE

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


def word_or_count(value: object, word: str, most: int) -> object:
    """The word, or a whole number of 1 or more, and at most ``most``."""
    if value == word:
        return value
    number = number_or_nan(value)
    if not (number.is_integer() and number >= 1):
        raise PydanticCustomError("ftx", "must be '{word}' or a whole number of 1 or more", {"word": word})
    if number > most:
        raise PydanticCustomError("ftx", "must be at most {most}", {"most": most})
    return int(number)


def auto_or_precision(value: object) -> object:
    """``auto``, ``fp32`` (stored as ``f32``, which is read as well) or ``bf16``."""
    if value not in ("auto", "fp32", "f32", "bf16"):
        raise PydanticCustomError("ftx", "must be 'auto', 'fp32' or 'bf16'")
    return "f32" if value == "fp32" else value


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


def word_as_bool(value: object) -> object:
    """A boolean, also as the word of a flag."""
    return value == "true" if value in ("true", "false") else value


def expression(value: object) -> object:
    """A regular expression of layers' names, or ``auto``."""
    if not isinstance(value, str) or not value.strip():
        raise PydanticCustomError("ftx", "must be 'auto' or a regular expression of layers' whole names")
    if len(value) > MOST_EXPRESSION:
        raise PydanticCustomError("ftx", "must have at most {most} characters", {"most": MOST_EXPRESSION})
    try:
        re.compile(value)
    except (re.error, OverflowError, RecursionError) as error:
        raise PydanticCustomError(
            "ftx", "must be a valid regular expression: {error}", {"error": str(error)}
        ) from error
    return value


def text_or_path(value: object, *, expected: str = "text") -> str:
    """Text that is not empty, or a path as text."""
    text = str(value) if isinstance(value, Path) else value
    if not isinstance(text, str) or not text.strip() or "\0" in text or len(text) > _LONGEST_TEXT:
        raise PydanticCustomError("ftx", "must be {expected}", {"expected": expected})
    return text


def auto_or_positive(value: object) -> object:
    """``auto``, or a number above 0."""
    number = number_or_nan(value)
    if value != "auto" and not 0 < number < math.inf:
        raise PydanticCustomError("ftx", "must be 'auto' or a number above 0")
    return value if value == "auto" else number


def auto_or_fraction(value: object) -> object:
    """``auto``, or a number from 0 to below 1."""
    number = number_or_nan(value)
    if value != "auto" and not 0 <= number < 1:
        raise PydanticCustomError("ftx", "must be 'auto' or a number from 0 to below 1")
    return value if value == "auto" else number


def number_or_nan(value: object) -> float:
    """A number, also as text; NaN for anything else, booleans included."""
    try:
        return math.nan if isinstance(value, bool) else float(str(value))
    except ValueError:
        return math.nan


def key_values(value: object) -> list[tuple[object, object]]:
    """The keys and values of a mapping, also if it is written as a flag: ``q=4,mlp=16``; none of any other value."""
    if isinstance(value, str) and "=" in value:
        parts = (part.partition("=") for part in value.split(",") if part.strip())
        return [(key.strip(), text.strip()) for key, _, text in parts]
    return list(cast("Mapping[object, object]", value).items()) if isinstance(value, Mapping) else []


_KEEP_TOKENS = "must be 'all', or fractions of the patches by the block they go into, as in {4: 0.7, 8: 0.5}"


def fractions_by_block(value: object) -> object:
    """``all``, ``{4: 0.7, 8: 0.5}`` and, as a flag, ``4=0.7,8=0.5``; in the order of the blocks."""
    if value == "all":
        return value
    given = key_values(value)
    if not given:
        raise PydanticCustomError("ftx", _KEEP_TOKENS)
    fractions: dict[int, float] = {}
    for block, fraction in given:
        number = _block(block)
        if number in fractions:
            raise PydanticCustomError("ftx", "must set block {block} only once", {"block": number})
        fractions[number] = _kept_fraction(fraction, number)
    return dict(sorted(fractions.items()))


def _block(value: object) -> int:
    text = str(value)
    if isinstance(value, bool) or not (text.isascii() and text.isdecimal()) or len(text) > len(str(MOST_DEPTH)):
        raise PydanticCustomError("ftx", "must use block numbers as keys, as in {4: 0.7}")
    if not 1 <= (number := int(text)) <= MOST_DEPTH:
        first = "blocks count from 0, and none is before the first"
        why = first if number == 0 else f"no network has more than {MOST_DEPTH}"
        raise PydanticCustomError(
            "ftx", "must not drop tokens before block {block}: {why}", {"block": number, "why": why}
        )
    return number


def _kept_fraction(value: object, block: int) -> float:
    fraction = number_or_nan(value)
    if not 0 < fraction < 1:
        context = {"block": block, "why": ", and 0 leaves none" if fraction == 0 else ""}
        raise PydanticCustomError("ftx", "must be a fraction between 0 and 1 for block {block}{why}", context)
    return fraction


_Sides = Annotated[str, Field(pattern=r"^[1-9]\d*x[1-9]\d*$")]
Seed = Annotated[int, BeforeValidator(no_bool), Field(ge=0, lt=2**63)]
Count = Annotated[int, BeforeValidator(no_bool), Field(ge=1, le=MOST_COUNTED)]
# Without a validator of its own, which would take its limits out of the JSON schema of a union.
_Counted = Annotated[int, Field(ge=1, le=MOST_COUNTED)]
CountOrAuto = Annotated[
    Literal["auto"] | _Counted, BeforeValidator(partial(word_or_count, word="auto", most=MOST_COUNTED))
]
CountOrNone = Annotated[
    Literal["none"] | _Counted, BeforeValidator(partial(word_or_count, word="none", most=MOST_COUNTED))
]
LabelsOrAuto = Annotated[
    Literal["auto"] | Annotated[int, Field(ge=1, le=MOST_LABELS)],
    BeforeValidator(partial(word_or_count, word="auto", most=MOST_LABELS)),
]
TrainPrecision = Annotated[Literal["auto", "f32", "bf16"], BeforeValidator(auto_or_precision)]
SizeOrAuto = Annotated[Literal["auto"] | int | _Sides, BeforeValidator(auto_or_size)]
FiniteFloat = Annotated[float, BeforeValidator(no_bool), Field(allow_inf_nan=False)]
PositiveOrAuto = Annotated[Literal["auto"] | float, BeforeValidator(auto_or_positive)]
FractionOrAuto = Annotated[Literal["auto"] | float, BeforeValidator(auto_or_fraction)]
Switch = Annotated[bool, BeforeValidator(word_as_bool), Field(strict=True)]
Text = Annotated[str, BeforeValidator(text_or_path)]
FolderPath = Annotated[
    Path,
    BeforeValidator(partial(text_or_path, expected="the path of a folder")),
    PlainSerializer(as_typed, when_used="json"),
]
LayerExpression = Annotated[str, BeforeValidator(expression)]
KeepTokens = Annotated[Literal["all"] | dict[int, float], BeforeValidator(fractions_by_block)]
