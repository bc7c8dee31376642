"""From a recipe to a model ready to train: built, weights in, adapters on, the rest frozen."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ftx.adapters.attach import attach, unfreeze_head
from ftx.adapters.spec import AdapterSpec
from ftx.backbones.build import Backbone, build
from ftx.recipe import Method, Recipe


@dataclass(frozen=True)
class Prepared:
    """A model whose trainable parameters are those that the method trains."""

    backbone: Backbone
    method: Method
    spec: AdapterSpec | None
    layers: tuple[str, ...]

    @property
    def trainable(self) -> int:
        """How many parameters train; the zeros of a fused layer's B are not among them."""
        total = sum(p.numel() for p in self.backbone.module.parameters() if p.requires_grad)
        for name in self.layers:
            layer = self.backbone.module.get_submodule(name)
            lora_B = layer.get_parameter("lora_B")
            owned = sum(lora_B[part.rows, part.ranks].numel() for part in layer.parts)  # pyright: ignore[reportGeneralTypeIssues, reportUnknownVariableType, reportUnknownMemberType, reportUnknownArgumentType]
            total -= lora_B.numel() - owned
        return total


def base_of(recipe: Recipe, num_classes: int) -> Backbone:
    """The model before training: pretrained weights and a fresh head."""
    return build(
        recipe.model.name,
        weights=recipe.model.weights,
        num_classes=num_classes,
        image_size=recipe.data.image_size,
        seed=recipe.seed,
    )


def adapter_spec(recipe: Recipe) -> AdapterSpec | None:
    """The adapter that a recipe asks for; None for linear probing and full fine-tuning."""
    if recipe.model.peft == "none":
        return None
    adapter = recipe.adapter
    return AdapterSpec(
        kind=recipe.model.peft,
        rank=dict.fromkeys(adapter.targets, adapter.rank),
        alpha=dict.fromkeys(adapter.targets, adapter.alpha),
        last_blocks=None if adapter.blocks == "all" else adapter.blocks,
        dropout=adapter.dropout,
        rslora=adapter.rslora,
    )


def prepare(recipe: Recipe, num_classes: int) -> Prepared:
    """Build the model and make trainable what the method trains.

    Raises: ModelError, AdapterError or EnvironmentFault, as building and attaching do.
    """
    backbone = base_of(recipe, num_classes)
    module, method, spec = backbone.module, recipe.method, adapter_spec(recipe)
    layers: list[str] = []
    if spec is not None:
        layers = attach(module, spec, generator=torch.Generator().manual_seed(recipe.seed))
    elif method == "linear":
        module.requires_grad_(False)
        unfreeze_head(module)
    else:
        module.requires_grad_(True)
    return Prepared(backbone, method, spec, tuple(layers))
