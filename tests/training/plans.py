"""Plans of a recipe and a model, where nothing is timed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ftx.adapters.trainable_model import TrainableModel
from ftx.recipe.schema import Recipe
from ftx.recipe.sections import Compile, FrozenRuntime
from ftx.training.opening import ResolvedTraining
from ftx.training.plan import Facts, Plan, resolve
from ftx.training.ranks import ONE_PROCESS


class Untimed:
    """Finds torch as it is the fastest."""

    def frozen_runtime(self, *_: object, **__: object) -> FrozenRuntime:
        return "torch"

    def compiles(self, *_: object) -> Compile:
        return "none"


def facts(images: int = 1000, **more: Any) -> Facts:
    """Facts of a CPU with much memory and without bf16."""
    usual = {"val_images": 0, "classes": 2, "device": "cpu", "computes_bf16": False, "free_bytes": 1 << 60}
    return Facts(**{"train_images": images, **usual, "ranks": ONE_PROCESS, **more})


def planned(prepared: TrainableModel, recipe: Recipe, images: int = 1000, **more: Any) -> Plan:
    return resolve(recipe, prepared, facts(images, **more), Untimed())


def with_recipe(found: ResolvedTraining, recipe: Recipe) -> ResolvedTraining:
    """The same plan with other keys."""
    return replace(found, plan=replace(found.plan, recipe=recipe))
