"""How many patches go on into a block, as a recipe says it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal, cast

from pydantic import BeforeValidator
from pydantic_core import PydanticCustomError

from ftx.core.untrusted_input import MOST_DEPTH

_FORM = "must be 'all', or shares of the patches by the block they go into, as {4: 0.7, 8: 0.5}"


def shares_by_block(value: object) -> object:
    """``all``, ``{4: 0.7, 8: 0.5}`` and, as a flag, ``4=0.7,8=0.5``; in the order of the blocks."""
    if value == "all":
        return value
    if isinstance(value, str) and "=" in value:
        pairs = [part.partition("=") for part in value.split(",") if part.strip()]
        items: list[tuple[object, object]] = [(block.strip(), share.strip()) for block, _, share in pairs]
    else:
        items = list(cast("Mapping[object, object]", value).items()) if isinstance(value, Mapping) else []
    if not items:
        raise PydanticCustomError("ftx", _FORM)
    shares: dict[int, float] = {}
    for block, share in items:
        number = _block(block)
        if number in shares:
            raise PydanticCustomError("ftx", "says two things of block {block}", {"block": number})
        shares[number] = _share(share, number)
    return {block: shares[block] for block in sorted(shares)}


def _block(value: object) -> int:
    text = str(value)
    if isinstance(value, bool) or not (text.isascii() and text.isdecimal()) or len(text) > len(str(MOST_DEPTH)):
        raise PydanticCustomError("ftx", "names blocks by their numbers, as {4: 0.7}")
    if not 1 <= (number := int(text)) <= MOST_DEPTH:
        first = "blocks count from 0, and none is before the first"
        why = first if number == 0 else f"no network has more than {MOST_DEPTH}"
        raise PydanticCustomError(
            "ftx", "cannot drop tokens before block {block}: {why}", {"block": number, "why": why}
        )
    return number


def _share(value: object, block: int) -> float:
    try:
        share = float("nan") if isinstance(value, bool) else float(str(value))
    except ValueError:
        share = float("nan")
    if not 0 < share < 1:
        context = {"block": block, "why": ", and 0 leaves none" if share == 0 else ""}
        raise PydanticCustomError("ftx", "must be a share between 0 and 1 for block {block}{why}", context)
    return share


KeepTokens = Annotated[Literal["all"] | dict[int, float], BeforeValidator(shares_by_block)]
