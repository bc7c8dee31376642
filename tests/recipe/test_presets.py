"""Presets: keys below all others."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
from tests.training.plans import planned
from torch import nn

from ftx.adapters.attach import adapter_layers
from ftx.adapters.trainable_model import decided_blocks, prepare
from ftx.backbones.split_network import frozen_blocks
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
        "fast": {"model.peft": "none", "model.freeze_backbone": True, "train.augment": "none"},
        "balanced": {},
        "best": {"adapter.blocks": "all", "train.augment": "light", "train.patch_dropout": 0.0},
    }
    assert Recipe.build(preset="balanced") == Recipe()


def test_the_defaults_are_what_ftx_train_does_without_flags(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """So Python and the command line train alike; and each shipped recipe writes out where it differs."""
    trained: list[Recipe] = []

    def train(recipe: Recipe, *_: object, **__: object) -> TrainReport:
        trained.append(recipe)
        raise InputError("far enough", fix="none")

    monkeypatch.setattr("ftx.training.train", train)
    (tmp_path / "data").mkdir()
    monkeypatch.chdir(tmp_path)
    assert run(["train"]) == 2
    assert trained == [Recipe()]
    keys = ("adapter.blocks", "train.augment", "train.patch_dropout")
    assert [Recipe().by_key()[key] for key in keys] == ["auto", "auto", "auto"]
    expected = {
        "dora": ["all", "light", 0.0],
        "lora": ["all", "light", 0.0],
        "full": ["auto", "light", "auto"],  # which has no adapter and no frozen block
        "linear": ["auto", "auto", "auto"],  # whose head is solved on unaugmented images
    }
    for task in TASKS:
        for method, values in expected.items():
            recipe = Recipe.load(recipe_file(f"{task}-{method}"))
            assert [recipe.by_key()[key] for key in keys] == values, (task, method)
        quickstart = Recipe.load(recipe_file(f"quickstart-{task}")).by_key()
        assert [quickstart[key] for key in keys] == [4, "none", 0.0]


def test_the_recipe_of_a_run_older_than_a_key_means_what_it_did() -> None:
    older = {key: value for key, value in Recipe().model_dump()["train"].items() if key != "patch_dropout"}
    assert TrainRecipe.model_validate(older).patch_dropout == 0.0
    del older["tensorboard"]  # so it is not whole: somebody wrote it by hand
    assert TrainRecipe.model_validate(older).patch_dropout == "auto"


def test_a_file_an_override_and_a_flag_win(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text("adapter: {blocks: 2}\ntrain: {epochs: 3}\n")
    assert Recipe.build(file, preset="balanced").adapter.blocks == 2
    assert Recipe.build(file, preset="balanced").train.epochs == 3
    assert Recipe.build(overrides=["adapter.blocks=2"], preset="balanced").adapter.blocks == 2
    assert Recipe.build(flags={"adapter.blocks": "2", "train.lr": None}, preset="balanced").adapter.blocks == 2
    assert Recipe.build(flags={"adapter.layers": r".*\.fc1"}, preset="balanced").adapter.layers == r".*\.fc1"
    assert Recipe.build(flags={"model.peft": "none"}, preset="balanced").method == "full"
    file.write_text("model: {peft: lora}\n")
    for config, flags in ((None, {"adapter.rank": 4}), (file, None), (None, {"model.peft": "lora"})):
        with pytest.raises(RecipeError, match="contradicts model") as caught:
            Recipe.build(config, flags=flags, preset="fast")
        assert "--preset fast, which sets model.peft=none; model.freeze_backbone=True" in str(caught.value.found)
        assert caught.value.fix == "leave out --preset fast, or what contradicts it"
    with pytest.raises(RecipeError, match=r"train\.epoch") as caught:  # wrong whatever the preset
        Recipe.build(flags={"train.epoch": 4}, preset="fast")
    assert "preset" not in str(caught.value)


def test_fast_is_a_probe_that_is_solved() -> None:
    assert Recipe.build(preset="fast").method == "linear"
    assert Recipe.build(preset="fast").train.head_init == "auto"


def blocks_of(module: nn.Module, task: str = "multiclass", blocks: object = "auto") -> object:
    return decided_blocks(Recipe.named({"task": task, "blocks": blocks}), module)


@pytest.mark.parametrize(("name", "depth", "blocks"), [("test_vit", 6, 3), ("vit_tiny_patch16_224", 12, 5)])
@pytest.mark.parametrize("task", ["multiclass", "hierarchical"])
def test_auto_is_the_last_two_fifths_of_a_plain_vision_transformer(
    task: str, name: str, depth: int, blocks: int
) -> None:
    assert blocks_of(timm.create_model(name), task) == blocks
    settings = {"name": name, "weights": "none", "image_size": 32, "peft": "lora", "task": task}
    module = prepare(Recipe.named({**settings, "blocks": "auto"}), 2).backbone.module
    assert frozen_blocks(module) == depth - blocks
    assert len(list(adapter_layers(module))) == 4 * blocks


def test_auto_is_all_blocks_of_several_labels_an_image_which_are_then_augmented() -> None:
    recipe = Recipe.named({"name": "test_vit", "weights": "none", "image_size": 32, "task": "multilabel"})
    prepared = prepare(recipe, 2)
    assert len(list(adapter_layers(prepared.backbone.module))) == 4 * 6
    decided = planned(prepared, recipe).recipe
    assert (decided.adapter.blocks, decided.train.augment, decided.train.patch_dropout) == ("all", "light", 0.0)
    assert blocks_of(prepared.backbone.module, "multilabel", 2) == 2


def test_auto_is_all_blocks_where_frozen_ones_are_not_kept_and_of_one_block_that_one() -> None:
    swin = timm.create_model("swin_tiny_patch4_window7_224", depths=(1, 1), embed_dim=12, num_heads=(1, 1))
    assert blocks_of(swin) == "all"
    assert blocks_of(timm.create_model("test_vit", depth=1)) == 1
    for choice in ("all", 3, "first:2", (0, 2)):
        assert blocks_of(swin, blocks=choice) == choice
