"""How ``model.keep_tokens`` is written, and what is refused with its reason."""

from __future__ import annotations

import pytest

from ftx.core.errors import RecipeError
from ftx.core.untrusted_input import MOST_DEPTH
from ftx.recipe.schema import Recipe


def kept(text: str) -> object:
    return Recipe().with_overrides([f"model.keep_tokens={text}"]).model.keep_tokens


@pytest.mark.parametrize("text", ["{8: 0.5, 4: 0.7}", "8=0.5,4=0.7", " 4 = 0.7 , 8 = 0.5 "])
def test_shares_by_block_in_order(text: str) -> None:
    found = kept(text)
    assert found == {4: 0.7, 8: 0.5}
    assert list(found) == [4, 8]  # type: ignore[call-overload]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("0.7", "must be 'all', or fractions of the patches"),
        ("{}", "must be 'all', or fractions of the patches"),
        ("[4, 8]", "must be 'all', or fractions of the patches"),
        ("4=0.7,4=0.5", "must set block 4 only once"),
        ("4=0.7,04=0.5", "must set block 4 only once"),
        ("{four: 0.7}", "must use block numbers as keys"),
        ("{-1: 0.7}", "must use block numbers as keys"),
        ("{0: 0.7}", "before block 0: blocks count from 0"),
        (f"{{{MOST_DEPTH + 1}: 0.7}}", f"before block {MOST_DEPTH + 1}: no network has more than {MOST_DEPTH}"),
        ("{4: 0}", "between 0 and 1 for block 4, and 0 leaves none"),
        ("{4: 1.5}", "between 0 and 1 for block 4"),
        ("{4: 1}", "between 0 and 1 for block 4"),
        ("4=1.0", "between 0 and 1 for block 4"),
        ("{4: true}", "between 0 and 1 for block 4"),
        ("{4: .nan}", "between 0 and 1 for block 4"),
    ],
)
def test_what_is_no_share_is_refused(text: str, reason: str) -> None:
    with pytest.raises(RecipeError, match=reason):
        kept(text)
