"""Presets: keys below all others."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.training.plans import planned

from ftx.adapters.attach import adapter_layers
from ftx.adapters.trainable_model import prepare
from ftx.cli.app import run
from ftx.core.errors import InputError, RecipeError
from ftx.core.shipped_files import recipe_file
from ftx.recipe.error_lines import dotted_keys
from ftx.recipe.schema import Recipe
from ftx.recipe.sections import PRESETS, TrainRecipe
from ftx.tasks.output_meaning import TASKS
from ftx.training.report import TrainReport


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_is_its_keys_and_nothing_else(preset: str) -> None:
    assert PRESETS[preset].keys() <= set(dotted_keys(Recipe))
    plain, found = Recipe().by_key(), Recipe.build(preset=preset).by_key()
    assert found == plain | dict(PRESETS[preset])


def test_the_presets_are_those_that_were_decided() -> None:
    """docs/decisions/0018: the time of a training, and what it comes to, are those of these keys."""
    assert {name: dict(keys) for name, keys in PRESETS.items()} == {
        "auto": {},
        "fast": {"model.peft": "none", "model.freeze_backbone": True, "train.augment": "none"},
    }
    assert Recipe.build(preset="auto") == Recipe()


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Recipe]:
    """The recipes that `ftx train` would train by, in a folder with data."""
    recipes: list[Recipe] = []

    def train(recipe: Recipe, *_: object, **__: object) -> TrainReport:
        recipes.append(recipe)
        raise InputError("far enough", fix="none")

    monkeypatch.setattr("ftx.training.train", train)
    (tmp_path / "data").mkdir()
    monkeypatch.chdir(tmp_path)
    return recipes


def test_the_defaults_are_what_ftx_train_does_without_flags(trained: list[Recipe]) -> None:
    """So Python and the command line train alike; and each shipped recipe writes out where it differs."""
    assert run(["train"]) == 2
    assert trained == [Recipe()]
    for task in TASKS:
        assert Recipe.load(recipe_file(f"{task}-dora")) == Recipe.named({"task": task})
        assert Recipe.load(recipe_file(f"{task}-lora")) == Recipe.named({"task": task, "peft": "lora"})
        quickstart = Recipe.load(recipe_file(f"quickstart-{task}")).by_key()
        keys = ("adapter.blocks", "train.augment", "train.patch_dropout")
        assert [quickstart[key] for key in keys] == [4, "none", 0.0]


def test_the_default_is_planned_by_the_task_and_the_model() -> None:
    """Half of the patches, a fitted head and 16 epochs; docs/decisions/0018 has what that is measured by."""
    for settings, expected in (
        ({}, ("light", 0.5, "probe", 16)),
        ({"task": "hierarchical"}, ("light", 0.0, "random", 16)),
        ({"task": "multilabel"}, ("light", 0.0, "random", 16)),
        ({"task": "multilabel", "blocks": 2}, ("none", 0.6, "random", 10)),
        ({"task": "multilabel", "peft": "none"}, ("light", 0.0, "random", 10)),
        ({"balance": "loss"}, ("light", 0.5, "random", 16)),
        ({"head_init": "random"}, ("light", 0.5, "random", 16)),
        ({"from_run": "runs/1"}, ("light", 0.5, "random", 16)),  # the run's head is fitted
        ({"blocks": 2}, ("none", 0.6, "random", 10)),
        ({"blocks": 2, "cache_views": 0}, ("light", 0.0, "random", 10)),
        ({"blocks": "first:1"}, ("light", 0.0, "random", 10)),
        ({"layers": r"blocks\.\d\.mlp\.fc1"}, ("light", 0.0, "random", 10)),
        ({"peft": "none"}, ("light", 0.0, "random", 10)),
        ({"epochs": 4, "patch_dropout": 0.25}, ("light", 0.25, "probe", 4)),
    ):
        recipe = Recipe.named({"name": "test_vit", "weights": "none", "image_size": 32, **settings})
        train = planned(prepare(recipe, 2), recipe).recipe.train
        assert (train.augment, train.patch_dropout, train.head_init, train.epochs) == expected, settings


def test_the_recipe_of_a_run_older_than_a_key_means_what_it_did() -> None:
    now = Recipe().model_dump()["train"]
    older = {key: value for key, value in now.items() if key not in ("patch_dropout", "head_init")}
    train = TrainRecipe.model_validate(older)
    assert (train.patch_dropout, train.head_init) == (0.0, "random")
    del older["tensorboard"]  # so it is not whole: somebody wrote it by hand
    train = TrainRecipe.model_validate(older)
    assert (train.patch_dropout, train.head_init) == ("auto", "auto")


def test_a_file_an_override_and_a_flag_win(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text("adapter: {blocks: 2}\ntrain: {epochs: 3}\n")
    assert Recipe.build(file, preset="auto").adapter.blocks == 2
    assert Recipe.build(file, preset="auto").train.epochs == 3
    assert Recipe.build(overrides=["adapter.blocks=2"], preset="auto").adapter.blocks == 2
    assert Recipe.build(flags={"adapter.blocks": "2", "train.lr": None}, preset="auto").adapter.blocks == 2
    assert Recipe.build(flags={"adapter.layers": r".*\.fc1"}, preset="auto").adapter.layers == r".*\.fc1"
    assert Recipe.build(flags={"model.peft": "none"}, preset="auto").method == "full"
    file.write_text("model: {peft: lora}\n")
    for config, flags in ((None, {"adapter.rank": 4}), (file, None), (None, {"model.peft": "lora"})):
        with pytest.raises(RecipeError, match=r"with model.peft|contradicts method") as caught:
            Recipe.build(config, flags=flags, preset="fast")
        assert "--preset fast, which sets model.peft=none; model.freeze_backbone=True" in str(caught.value.found)
        assert caught.value.fix == "run it again without --preset fast, or without the keys that contradict it"
    with pytest.raises(RecipeError, match=r"train\.epoch") as caught:  # wrong whatever the preset
        Recipe.build(flags={"train.epoch": 4}, preset="fast")
    assert "preset" not in str(caught.value)


def test_fast_is_a_probe_that_is_solved() -> None:
    assert Recipe.build(preset="fast").method == "linear"
    assert Recipe.build(preset="fast").train.head_init == "auto"


@pytest.mark.parametrize("name", ["test_vit", "swin_tiny_patch4_window7_224"])
def test_auto_is_an_adapter_in_all_blocks(name: str) -> None:
    found = {}
    for blocks in ("auto", "all"):
        recipe = Recipe.named({"name": name, "weights": "none", "blocks": blocks})
        prepared = prepare(recipe, 2)
        plan = planned(prepared, recipe)
        found[blocks] = [layer for layer, _ in adapter_layers(prepared.backbone.module)]
        assert (plan.recipe.adapter.blocks, plan.kept_blocks) == ("all", None)
    assert found["auto"] == found["all"]


def test_patches_stay_where_a_network_needs_all_of_them() -> None:
    recipe = Recipe.named({"name": "swin_tiny_patch4_window7_224", "weights": "none"})
    plan = planned(prepare(recipe, 2), recipe)
    assert (plan.dropped.fraction, plan.head_init, plan.epochs) == (0.0, "probe", 16)


@pytest.mark.parametrize("name", ["balanced", "best"])
def test_earlier_names_of_the_default_are_read(
    name: str, trained: list[Recipe], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["train", "--preset", name]) == 2
    assert trained == [Recipe()]
    assert f"--preset {name} is now called auto" in capsys.readouterr().err
    assert Recipe.build(preset=name) == Recipe()
    with pytest.raises(InputError, match="--preset must be one of") as caught:
        Recipe.build(preset="fats")
    assert caught.value.fix == "did you mean 'fast'?"
