"""A plan decides everything, once, and changes nothing."""

from __future__ import annotations

from typing import Any

import torch
from tests.training.plans import planned

from ftx.adapters.trainable_model import prepare
from ftx.recipe.schema import Recipe
from ftx.training.plan import Facts, resolve

TINY = {"name": "test_vit", "weights": "none", "image_size": 32, "peft": "lora", "blocks": 2}


class Noting:
    """A timer that notes what it is to time, and finds what nobody would expect."""

    def __init__(self) -> None:
        self.noted: list[tuple[Any, ...]] = []

    def frozen_runtime(self, kept_blocks: int, views: int, *, bf16: bool) -> Any:
        self.noted.append((kept_blocks, views, bf16))
        return "openvino"

    def compiles(self, train: Any, images: int, **how: Any) -> Any:
        self.noted.append((train.batch_size, images, how["dropped"].fraction, how["plain_attention"], how["bf16"]))
        return "blocks"


def test_what_is_timed_is_what_will_be_computed() -> None:
    recipe = Recipe.named({**TINY, "epochs": 3, "augment": "light", "cache_views": 2, "patch_dropout": 0.25})
    timer = Noting()
    facts = Facts(train_images=7, val_images=4, classes=2, computes_bf16=True, free_bytes=0)
    train = resolve(recipe, prepare(recipe, 2), facts, timer).recipe.train
    # Four blocks are kept: two views of seven images and one of four. Three epochs of seven images.
    assert timer.noted == [(4, 18, True), (7, 21, 0.25, False, True)]
    assert (train.frozen_runtime, train.compile, train.precision, train.batch_size) == ("openvino", "blocks", "bf16", 7)


def test_planning_changes_neither_the_model_nor_the_recipe() -> None:
    recipe = Recipe.named({**TINY, "blocks": "all", "patch_dropout": 0.5})
    prepared = prepare(recipe, 2)
    module, before = prepared.backbone.module, recipe.model_copy(deep=True)

    def state() -> list[object]:
        attention = [getattr(layer, "fused_attn", None) for layer in module.modules()]
        return [repr(module), attention, [parameter.requires_grad for parameter in module.parameters()]]

    state_before, weights = state(), {name: tensor.clone() for name, tensor in module.state_dict().items()}
    generator = torch.get_rng_state()
    assert planned(prepared, recipe).plain_attention
    assert state() == state_before
    assert all(torch.equal(tensor, weights[name]) for name, tensor in module.state_dict().items())
    assert torch.equal(torch.get_rng_state(), generator)
    assert recipe == before


def test_nothing_is_left_to_decide() -> None:
    recipe = Recipe.named({key: value for key, value in TINY.items() if key != "blocks"})
    decided = planned(prepare(recipe, 2), recipe).recipe.by_key()
    # `auto` is a value of these two: layers by target, and the format that the folder shows.
    assert {key for key, value in decided.items() if value == "auto"} <= {"adapter.layers", "data.format"}
