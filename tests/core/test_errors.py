"""Errors that list many complaints: the first of them, and how many more there are."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel, ConfigDict, Field, ValidationError

import ftx
from ftx.core.errors import (
    LINES,
    NAMED,
    AdapterError,
    DataError,
    InputError,
    Interrupted,
    MergeError,
    ModelError,
    Terminated,
    Termination,
    check_known,
    first_error,
    first_lines,
    listed,
    nearest,
    of_the_same_parts,
    shell_command,
    shown,
    stopped,
)

SOURCE = Path(ftx.__file__).parent
# The fix of such an error is always known: what to change in the data, the model, the adapter, or the flags.
ALWAYS_FIXED = (DataError, ModelError, AdapterError, MergeError)


def without_fix(source: str) -> Iterator[int]:
    """The lines that make an error of ``ALWAYS_FIXED`` without a fix."""
    names = {kind.__name__ for kind in ALWAYS_FIXED}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in names:
            fixes = [keyword.value for keyword in node.keywords if keyword.arg == "fix"]
            if not fixes or (isinstance(fixes[0], ast.Constant) and not fixes[0].value):
                yield node.lineno


def test_every_error_of_data_models_and_adapters_has_a_fix() -> None:
    found = {str(file.relative_to(SOURCE)): [*without_fix(file.read_text("utf-8"))] for file in SOURCE.rglob("*.py")}
    assert {file: lines for file, lines in found.items() if lines} == {}
    assert [*without_fix('raise DataError("a")\nMergeError("b", fix=None)\nModelError("c", fix="d")')] == [1, 2]


def test_what_is_not_listed_is_counted() -> None:
    problems = [f"p{number}" for number in range(30)]
    assert listed(problems[:NAMED]) == "; ".join(problems[:NAMED])
    assert listed(problems[: NAMED + 3]) == "; ".join(problems[:NAMED]) + "; and 3 more"
    assert first_lines(problems[:2], 2) == ["p0", "p1"]
    # Of those that were counted and not kept as well.
    assert first_lines(problems[:2], 1_500) == ["p0", "p1", "and 1,498 more"]
    assert first_lines(problems, 1_500) == [*problems[:LINES], f"and {1_500 - LINES:,} more"]


def test_a_long_value_is_cut() -> None:
    assert shown("a" * 78) == repr("a" * 78)
    assert shown("a" * 79) == f"{repr('a' * 79)[:77]}..."
    assert len(shown(["a" * 1000] * 1000, 40)) == 40


def test_what_ended_the_work_has_its_status() -> None:
    for by, kind, word, status in (
        (KeyboardInterrupt(), Interrupted, "interrupted", 130),
        (Termination(), Terminated, "terminated", 143),
    ):
        told = stopped(by, doing="while it counted", found="two of five", fix="count again")
        assert type(told) is kind
        assert (told.what, told.exit_code) == (f"{word} while it counted", status)
        assert told.details() == [("found", "two of five"), ("fix", "count again")]


def test_a_name_that_is_not_known_gets_the_nearest_or_all() -> None:
    check_known("colour", ["red", "blue"], ["blue", "green", "red"])
    for given, found, fix in (
        (["red", "gren"], "gren", "did you mean 'green'?"),
        (["red", "qqq", "xx"], "qqq, xx", "choose one of these names"),
        ([], "nothing", "choose one of these names"),
    ):
        with pytest.raises(InputError) as refused:
            check_known("colour", given, ["blue", "green", "red"])
        assert (refused.value.found, refused.value.fix) == (found, fix)
    assert nearest("qqq", ["blue"]) is None
    assert of_the_same_parts("hub/dinov2-base", ["vit_base_patch14_reg4_dinov2", "vit_base_patch14_dinov2", "vit"]) == (
        "vit_base_patch14_dinov2"
    )


def test_a_command_can_be_pasted_whatever_the_folder_is_called() -> None:
    assert shell_command("ftx merge", "my runs/it's") == "ftx merge 'my runs/it'\"'\"'s'"
    assert shell_command("ftx merge") == "ftx merge"


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid")

    size: int = Field(le=9)


class Outer(BaseModel):
    parts: list[Inner]


def first_error_of(document: object) -> str:
    with pytest.raises(ValidationError) as raised:
        Outer.model_validate(document)
    return first_error(raised.value)


def test_the_first_thing_is_named_and_the_others_are_counted() -> None:
    wrong = "parts.1.size: 77; Input should be less than or equal to 9"
    assert first_error_of({"parts": [{"size": 1}, {"size": 77}]}) == wrong
    assert first_error_of({"parts": [{"size": 1}, {"size": 77}, {"size": "x", "more": 1}]}) == f"{wrong}; and 2 more"
    assert first_error_of({"parts": [{}] * 1_501}) == "parts.0.size: Field required; and 1,500 more"
    assert first_error_of([1]).startswith("all of it: Input should be")


def test_a_long_document_makes_no_long_error() -> None:
    assert len(first_error_of({"parts": [{"size": 1, "x" * 5000: "y" * 5000}]})) < 400
