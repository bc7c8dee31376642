"""Which layers an adapter goes into, as a recipe says it: targets, their ranks, and blocks.

The types at the end are those of the keys: each takes what YAML, a flag or Python gives and hands it on in one form.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Literal, cast, get_args

from pydantic import BeforeValidator, Field
from pydantic_core import PydanticCustomError

from ftx.core.untrusted_input import MOST_DEPTH, MOST_WIDTH
from ftx.recipe.value_types import key_values, no_bool, number_or_nan

Target = Literal["q", "k", "v", "proj", "fc1", "fc2"]
TARGETS: tuple[Target, ...] = get_args(Target)
# Where an adapter goes: a target of the family table, or the whole of a layer that the user named.
Role = Literal[Target, "layer"]
WORDS: Mapping[str, tuple[Target, ...]] = {"attn": ("q", "k", "v", "proj"), "mlp": ("fc1", "fc2"), "all": TARGETS}

# all; auto, which is all; the last N; the first N, as first:N; or those listed, counted from 0.
Blocks = Literal["all", "auto"] | int | str | tuple[int, ...]


def target_list(value: object) -> object:
    """``q,v`` or ``attn`` as on the command line, or a list; in one fixed order, so that files do not differ by it."""
    names = [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value
    if not isinstance(names, list | tuple):
        raise PydanticCustomError("ftx", "must be a list out of {targets}", {"targets": ", ".join(TARGETS)})
    targets = [target for name in cast("Sequence[object]", names) for target in _meant(name)]
    if not targets:
        raise PydanticCustomError("ftx", "must name at least one of {targets}", {"targets": ", ".join(TARGETS)})
    # Unknown names stay: the Literal reports each by its own position.
    return [*(name for name in TARGETS if name in targets), *(name for name in targets if name not in TARGETS)]


def rank_or_ranks(value: object) -> object:
    """One rank for all targets, or one for each: ``8``, ``{q: 4, mlp: 16}``, and ``q=4,mlp=16`` as a flag."""
    return _one_or_each(value, _count)


def alpha_or_alphas(value: object) -> object:
    """One alpha for all targets, or one for each."""
    return _one_or_each(value, _positive)


def block_choice(value: object) -> object:
    """``all``, ``auto``, ``4`` or ``last:4``, ``first:4``, ``[0, 3]``, and ``0,3,6-8`` as a flag."""
    if value in ("all", "auto"):
        return value
    listed = isinstance(value, list | tuple)
    text = ",".join(map(str, cast("Sequence[object]", value))) if listed else str(value).replace(" ", "")
    counted = re.fullmatch(r"(?:(first|last):)?([1-9]\d*)", text)
    if counted and not listed and not isinstance(value, bool):
        if len(counted[2]) > len(str(MOST_DEPTH)) or int(counted[2]) > MOST_DEPTH:
            raise PydanticCustomError("ftx", "must be at most {most} blocks", {"most": MOST_DEPTH})
        return f"first:{counted[2]}" if counted[1] == "first" else int(counted[2])
    ranges = [re.fullmatch(r"(\d+)(?:-(\d+))?", part) for part in text.split(",")]
    # A single number is a count; the block of that number is written as a list in YAML, or as 3-3.
    if None in ranges or not (listed or "," in text or "-" in text):
        form = "must be 'all', 'auto', a whole number of 1 or more (the last N), first:N, or a list as in 0,3,6-8"
        raise PydanticCustomError("ftx", form)
    spans = [(int(found[1]), int(found[2] or found[1])) for found in ranges if found]
    if any(first > last or last >= MOST_DEPTH for first, last in spans):
        raise PydanticCustomError("ftx", "must name blocks in order, each below {most}", {"most": MOST_DEPTH})
    if sum(last + 1 - first for first, last in spans) > MOST_DEPTH:
        raise PydanticCustomError("ftx", "must name at most {most} blocks", {"most": MOST_DEPTH})
    return tuple(sorted({number for first, last in spans for number in range(first, last + 1)}))


def _meant(name: object) -> Sequence[object]:
    return WORDS.get(name, (name,)) if isinstance(name, str) else (name,)


def _one_or_each(value: object, read: Callable[[object], float]) -> object:
    given = key_values(value)
    if not given:
        return read(value)
    each: dict[object, float] = {}
    for name, one in given:
        for target in _meant(name):
            if target not in TARGETS:
                context = {"name": str(name), "known": ", ".join((*TARGETS, *WORDS))}
                raise PydanticCustomError("ftx", "must not set {name}: the targets are {known}", context)
            if target in each:
                raise PydanticCustomError("ftx", "must set {name} only once", {"name": str(target)})
            each[target] = read(one)
    return {target: each[target] for target in TARGETS if target in each}


def _count(value: object) -> int:
    number = number_or_nan(no_bool(value))
    if not number.is_integer():
        raise PydanticCustomError("ftx", "must be a whole number")
    if number < 1:
        raise PydanticCustomError("ftx", "must be 1 or more")
    if number > MOST_WIDTH:
        raise PydanticCustomError("ftx", "must be at most {most}", {"most": MOST_WIDTH})
    return int(number)


def _positive(value: object) -> float:
    number = number_or_nan(no_bool(value))
    if not math.isfinite(number):
        raise PydanticCustomError("ftx", "must be a finite number")
    if number <= 0:
        raise PydanticCustomError("ftx", "must be above 0")
    return number


TargetNames = Annotated[tuple[Target, ...], BeforeValidator(target_list), Field(validate_default=True)]
RankPerTarget = Annotated[int | dict[Target, int], BeforeValidator(rank_or_ranks)]
AlphaPerTarget = Annotated[float | dict[Target, float], BeforeValidator(alpha_or_alphas)]
BlockChoice = Annotated[Blocks, BeforeValidator(block_choice)]
