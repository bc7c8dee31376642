"""A study that is opened again: that of the same search, also after its server has closed what it heard nothing on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from optuna import Study

from ftx.core.errors import RunError
from ftx.recipe.schema import Recipe
from ftx.tuning.space import Space, default_space
from ftx.tuning.study import identity, open_study

RECIPE = Recipe.named({"epochs": 3})
SPACE = Space(keys={"adapter.rank": (2, 4)})


def opened(out: Path, **changed: Any) -> Study:
    given = {"recipe": RECIPE, "data": "digest", "space": SPACE, "objectives": 1} | changed
    return open_study(out, "one", None, **given)


def test_a_study_is_opened_again_by_the_same_search_only(tmp_path: Path) -> None:
    first = opened(tmp_path)
    first.ask()
    moved = RECIPE.with_overrides(["data.path=elsewhere"])  # the same images, as their digest says
    for again in (opened(tmp_path), opened(tmp_path, recipe=moved)):
        assert (identity(again), len(again.trials)) == (identity(first), 1)
    for changed in (
        {"recipe": RECIPE.with_overrides(["train.epochs=4"])},
        {"recipe": RECIPE.with_overrides(["seed=7"])},
        {"data": "another"},
        {"space": Space(keys={"adapter.rank": (2, 5)})},
        {"space": default_space(RECIPE)},
        {"objectives": 2},
    ):
        with pytest.raises(RunError, match="--study must be new"):
            opened(tmp_path, **changed)
    assert len(opened(tmp_path).trials) == 1


def test_workers_of_one_seed_draw_what_the_others_do_not(tmp_path: Path) -> None:
    """Four workers, as many calls of the command: by one seed all would train the same."""
    drawn = [opened(tmp_path).ask().suggest_float("train.lr", 0.0, 1.0) for _ in range(4)]
    assert len(set(drawn)) == 4


def test_two_studies_of_one_search_have_names_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    one, other = identity(opened(tmp_path / "a")), identity(opened(tmp_path / "b"))
    assert one[0] == other[0]
    assert one[1] != other[1]


def test_a_connection_that_was_closed_meanwhile_is_opened_again(tmp_path: Path) -> None:
    """As servers do in the hours of a trial."""
    study = opened(tmp_path)
    trial = study.ask()
    engine = study._storage._backend.engine  # pyright: ignore[reportAttributeAccessIssue]
    pooled = engine.raw_connection()
    closed_there = pooled.driver_connection
    pooled.close()  # it waits for its next use
    closed_there.close()
    study.tell(trial, 0.5)
    assert study.best_value == 0.5
