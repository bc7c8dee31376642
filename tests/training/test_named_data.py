"""What a command says of where images lie, by an override or by a flag, and what a run's recipe alone says."""

from __future__ import annotations

from pathlib import Path

import pytest

from ftx.core.errors import DataError
from ftx.recipe.schema import Recipe
from ftx.training.init_from import check_address, data_path, without_untyped_links


@pytest.mark.parametrize("of_run", [True, False])
@pytest.mark.parametrize(
    ("overrides", "flags", "follows"),
    [
        ((), None, False),
        ((), {}, False),
        (("data.path=x", "train.lr=1e-3"), {"data.path": "y"}, False),
        (("data.follow_links=true",), None, True),
        ((" data.follow_links = true",), {}, True),
        (("data.follow_links=false",), {}, False),
        ((), {"data.follow_links": True}, True),
        (("data.path=x",), {"data.follow_links": True}, True),
    ],
)
def test_links_are_followed_only_where_the_command_says_so(
    overrides: tuple[str, ...], flags: dict[str, object] | None, follows: bool, of_run: bool
) -> None:
    recipe = Recipe().replace(data={"follow_links": of_run, "val_fraction": 0.3})
    found = without_untyped_links(recipe, overrides, flags)
    assert found.data.follow_links == follows
    assert found.data.val_fraction == 0.3


@pytest.mark.parametrize(
    ("overrides", "flags", "expected"),
    [
        ((), None, None),
        (("train.lr=1e-3",), {"data.format": "auto"}, None),
        (("data.path=x",), None, "x"),
        ((), {"data.path": "y"}, "y"),
        (("data.path=x", "data.path=z"), {}, "z"),
    ],
)
def test_where_images_lie_is_the_last_that_was_said(
    overrides: tuple[str, ...], flags: dict[str, object] | None, expected: str | None
) -> None:
    assert data_path(overrides, flags) == (None if expected is None else Path(expected))


def test_an_address_must_be_typed() -> None:
    there = "https://host/{0..9}.tar"
    recipe = Recipe.named({"path": there})
    check_address(Path("run"), recipe, (f"data.path={there}",), None, "ftx train --from")
    check_address(Path("run"), recipe, (), {"data.path": there}, "ftx train --from")
    check_address(Path("run"), Recipe.named({"path": "here"}), (), None, "ftx train --from")
    with pytest.raises(DataError, match="must not contain a URL") as error:
        check_address(Path("run"), recipe, ("train.lr=1e-3",), {}, "ftx train --from")
    assert error.value.fix is not None
    assert "ftx train --from run --data" in error.value.fix
