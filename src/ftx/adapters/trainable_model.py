"""From a recipe to a model ready to train: built, weights in, adapters on, the rest frozen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

import torch

from ftx.adapters.adapter_spec import AdapterSpec
from ftx.adapters.attach import adapter_layers, attach, attach_saved, unfreeze_head
from ftx.backbones.build import Backbone, build
from ftx.recipe.adapter_targets import Blocks, Role, Target
from ftx.recipe.method_defaults import Method
from ftx.recipe.schema import Recipe

_Number = TypeVar("_Number", int, float)


@dataclass(frozen=True)
class TrainableModel:
    """A model whose trainable parameters are those that the method trains."""

    backbone: Backbone
    method: Method
    spec: AdapterSpec | None
    layers: tuple[str, ...]

    @property
    def trainable(self) -> int:
        """How many parameters train; a fused layer's zeros in B, and magnitudes of rows that no target has, do not."""
        adapters = dict(adapter_layers(self.backbone.module))
        count = sum(layer.trainable_parameters for layer in adapters.values())
        for name, parameter in self.backbone.module.named_parameters():
            if parameter.requires_grad and name.rpartition(".")[0] not in adapters:
                count += parameter.numel()
        return count


def base_of(recipe: Recipe, num_classes: int) -> Backbone:
    """The model before training: pretrained weights and a fresh head."""
    return build(
        recipe.model.name,
        weights=recipe.model.weights,
        num_classes=num_classes,
        image_size=recipe.data.image_size,
        seed=recipe.seed,
        token_fractions=recipe.model.token_fractions,
    )


def adapter_spec(recipe: Recipe) -> AdapterSpec | None:
    """The adapter of a recipe; None for linear probing and full fine-tuning."""
    if recipe.model.peft == "none":
        return None
    adapter = recipe.adapter
    named = adapter.layers != "auto"
    roles: tuple[Role, ...] = ("layer",) if named else adapter.targets
    return AdapterSpec(
        kind=recipe.model.peft,
        rank=_each(roles, adapter.rank),
        alpha=_each(roles, adapter.alpha),
        blocks=adapter.blocks,
        layers=adapter.layers if named else None,
        init=adapter.init,
        dropout=adapter.dropout,
        rslora=adapter.rslora,
    )


def decided_blocks(recipe: Recipe) -> Blocks:
    """The blocks of the recipe; all if it says ``auto``, or names layers instead."""
    adapter = recipe.adapter
    return "all" if adapter.layers != "auto" or adapter.blocks == "auto" else adapter.blocks


def adapts_all_blocks(recipe: Recipe) -> bool:
    """Whether the recipe puts an adapter into every block: it does not limit the blocks, and names no layers."""
    return recipe.model.peft != "none" and recipe.adapter.layers == "auto" and decided_blocks(recipe) == "all"


def _each(roles: tuple[Role, ...], given: _Number | Mapping[Target, _Number]) -> dict[Role, _Number]:
    return {**given} if isinstance(given, Mapping) else dict.fromkeys(roles, given)


def prepare(recipe: Recipe, num_classes: int, *, saved: bool = False) -> TrainableModel:
    """Build the model and make trainable what the method trains; ``saved``: to be filled from ``trained/``.

    Raises: ModelError, AdapterError or EnvironmentFault, as building and attaching do.
    """
    backbone = base_of(recipe, num_classes)
    module, method = backbone.module, recipe.method
    spec = adapter_spec(recipe.replace(adapter={"blocks": decided_blocks(recipe)}))
    layers: list[str] = []
    if spec is not None:
        generator = torch.Generator().manual_seed(recipe.seed)
        layers = attach_saved(module, spec) if saved else attach(module, spec, generator=generator)
    elif method == "linear":
        module.requires_grad_(False)
        unfreeze_head(module)
    else:
        module.requires_grad_(True)
    return TrainableModel(backbone, method, spec, tuple(layers))
