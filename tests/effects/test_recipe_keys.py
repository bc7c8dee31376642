"""No recipe key does nothing: each has a row, and each row is seen to hold."""

from __future__ import annotations

import pytest
from tests.effects.lab import Lab, marks
from tests.effects.recipe_keys import KEYS, Key

from ftx.recipe.error_lines import dotted_keys
from ftx.recipe.schema import Recipe


def test_every_key_has_a_row() -> None:
    assert {row.key for row in KEYS} == set(dotted_keys(Recipe))


@pytest.mark.parametrize(
    "row",
    [
        pytest.param(
            row,
            id=f"{row.key}={row.value}-{row.check.__name__}",
            marks=marks(row.takes),
        )
        for row in KEYS
    ],
)
def test_a_key_has_its_effect(lab: Lab, row: Key) -> None:
    row.check(lab, row.value)
