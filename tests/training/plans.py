"""Plans of a recipe and a model, where nothing is timed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ftx.adapters.trainable_model import TrainableModel
from ftx.recipe.schema import Recipe
from ftx.recipe.sections import Compile, FrozenRuntime
from ftx.training.opening import ResolvedTraining
from ftx.training.plan import Facts, Plan, resolve


class Untimed:
    """Finds torch as it is the fastest."""

    def frozen_runtime(self, *_: object, **__: object) -> FrozenRuntime:
        return "torch"

    def compiles(self, *_: object, **__: object) -> Compile:
        return "none"


def planned(prepared: TrainableModel, recipe: Recipe, images: int = 1000, **facts: Any) -> Plan:
    return resolve(
        recipe, prepared, Facts(**{"train_images": images, "val_images": 0, "classes": 2, **facts}), Untimed()
    )


def with_recipe(found: ResolvedTraining, recipe: Recipe) -> ResolvedTraining:
    """The same plan with other keys."""
    return replace(found, plan=replace(found.plan, recipe=recipe))
