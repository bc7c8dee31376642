"""The space of a study: what is wrong in it is said at once, and what a study keeps comes back as it was."""

from __future__ import annotations

from pathlib import Path

import pytest
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FixedTrial

from ftx.core.errors import InputError, RecipeError
from ftx.recipe.schema import Recipe
from ftx.tuning.space import Range, default_space, read_space

TEXT = """
train.lr: {low: 1e-4, high: 1e-2, log: true}
train.epochs: {low: 2, high: 5}
adapter.rank: [2, 4]
adapter.targets: [all, [q, v]]
model.keep_tokens: [all, {3: 0.7}]
"""


def test_keys_have_choices_or_ranges(tmp_path: Path) -> None:
    (tmp_path / "space.yaml").write_text(TEXT)
    space = read_space(tmp_path / "space.yaml", Recipe())
    assert space.keys["train.lr"] == Range(low=1e-4, high=1e-2, log=True)
    assert space.keys["adapter.targets"] == ("all", ["q", "v"])
    (_, fewer) = space.keys["model.keep_tokens"]  # pyright: ignore[reportGeneralTypeIssues]
    kept = {"train.lr": 0.001, "adapter.rank": "4", "adapter.targets": "['q', 'v']", "model.keep_tokens": str(fewer)}
    assert space.values(kept) == {
        "train.lr": 0.001, "adapter.rank": 4, "adapter.targets": ["q", "v"], "model.keep_tokens": fewer,
    }  # fmt: skip
    (tmp_path / "again.yaml").write_text(space.dumps())
    assert read_space(tmp_path / "again.yaml", Recipe()) == space


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("train.lrr: [1, 2]", "train.lrr: unknown key, did you mean 'train.lr'?"),
        ("train.lr: 3", "train.lr: must be two choices or more, or a range with low and high"),
        ("train.lr: [0.1]", "train.lr: must be two choices or more"),
        ("train.lr: {low: 2, high: 1}", "low must be less than high; found 2 and 1"),
        ("train.lr: {low: 0, high: 1, log: true}", "low must be more than 0 where log is true"),
        ("train.lr: {low: 1, hight: 2}", "train.lr: high: Field required"),
        ("adapter.rank: [2, nought]", "adapter.rank:"),
        ("train.epochs: {low: -2, high: 2}", "train.epochs:"),
        ("data.path: [one, other]", "data.path: is the same for all trials"),
        ("{}", "must have a key or more"),
        ("- train.lr", "the space must be keys with values"),
    ],
)
def test_what_is_wrong_is_named(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "space.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError) as caught:
        read_space(path, Recipe())
    assert said in caught.value.what
    assert caught.value.where == str(path)


def test_all_that_is_wrong_is_said_at_once(tmp_path: Path) -> None:
    path = tmp_path / "space.yaml"
    path.write_text("train.lrr: [1, 2]\nadapter.rank: 3\n")
    with pytest.raises(RecipeError, match="2 errors in the space"):
        read_space(path, Recipe())


@pytest.mark.parametrize(
    ("key", "choices"),
    [
        ("task", "[multiclass, multilabel]"),
        ("data.path", "[one, other]"),
        ("data.format", "[folders, coco]"),
        ("data.val_fraction", "{low: 0.1, high: 0.3}"),
        ("data.classes", "[[a, b], [a, c]]"),
        ("model.from_run", "[one, other]"),
    ],
)
def test_what_decides_which_images_a_trial_is_judged_by_is_not_searched(key: str, choices: str, tmp_path: Path) -> None:
    (tmp_path / "space.yaml").write_text(f"{key}: {choices}\nadapter.rank: [2, 4]")
    with pytest.raises(RecipeError, match="1 error in the space") as caught:
        read_space(tmp_path / "space.yaml", Recipe())
    assert f"{key}: is the same for all trials" in caught.value.what


@pytest.mark.parametrize(
    ("text", "drawn", "distribution"),
    [
        ("train.epochs: {low: 2, high: 50, log: true}", 7, IntDistribution(2, 50, log=True)),
        ("train.epochs: {low: 2, high: 50}", 7, IntDistribution(2, 50)),
        ("train.lr: {low: 1e-4, high: 1e-2, log: true}", 0.003, FloatDistribution(1e-4, 1e-2, log=True)),
        ("train.lr: {low: 1e-4, high: 1e-2}", 0.003, FloatDistribution(1e-4, 1e-2)),
        ("train.weight_decay: {low: 0, high: 0.5}", 0.25, FloatDistribution(0, 0.5)),
        ("adapter.rank: [2, 8]", "8", CategoricalDistribution(("2", "8"))),
    ],
)
def test_a_sampler_draws_from_what_the_file_says(
    text: str, drawn: object, distribution: BaseDistribution, tmp_path: Path
) -> None:
    (tmp_path / "space.yaml").write_text(text)
    space = read_space(tmp_path / "space.yaml", Recipe())
    (key,) = space.keys
    trial = FixedTrial({key: drawn})
    expected = int(str(drawn)) if key == "adapter.rank" else drawn
    assert space.suggested(trial) == {key: expected}  # pyright: ignore[reportArgumentType]
    assert trial.distributions == {key: distribution}
    assert space.values({key: drawn}) == {key: expected}


def test_without_a_file_what_matters_is_searched_as_the_recipe_takes_it() -> None:
    recipe = Recipe.named({"image_size": 224})
    space = default_space(recipe)
    assert set(space.keys) == {"train.lr", "adapter.rank", "adapter.blocks", "model.keep_tokens", "data.image_size"}
    assert space.keys["adapter.blocks"] == (2, 4, 8, "all")
    assert space.keys["data.image_size"] == (112, 168, 224)
    assert space.keys["train.lr"] == Range(low=2e-4, high=5e-3, log=True)
    for key, values in space.keys.items():
        for value in (values.low, values.high) if isinstance(values, Range) else values:
            recipe.with_overrides([], {key: value})


def test_of_linear_probing_nothing_is_searched_by_itself() -> None:
    with pytest.raises(InputError, match="--space must be given"):
        default_space(Recipe.named({"peft": "none", "freeze_backbone": True}))
