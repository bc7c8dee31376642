"""What is wrong with a document in one line: the first, where it stands, and how many more there are."""

from __future__ import annotations

import pytest
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ftx.core.pydantic_errors import first_error


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid")

    size: int = Field(le=9)


class Outer(BaseModel):
    parts: list[Inner]


def told(document: object) -> str:
    with pytest.raises(ValidationError) as raised:
        Outer.model_validate(document)
    return first_error(raised.value)


def test_the_first_thing_is_named_and_the_others_are_counted() -> None:
    wrong = "parts.1.size: 77; Input should be less than or equal to 9"
    assert told({"parts": [{"size": 1}, {"size": 77}]}) == wrong
    assert told({"parts": [{"size": 1}, {"size": 77}, {"size": "x", "more": 1}]}) == f"{wrong}; and 2 more"
    assert told({"parts": [{}] * 1_501}) == "parts.0.size: Field required; and 1,500 more"
    assert told([1]).startswith("all of it: Input should be")


def test_a_long_document_makes_no_long_error() -> None:
    assert len(told({"parts": [{"size": 1, "x" * 5000: "y" * 5000}]})) < 400
