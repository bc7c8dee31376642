"""Where a training computes: attention as plain products where they fit into memory."""

from __future__ import annotations

import pytest

from ftx.adapters.trainable_model import TrainableModel, prepare
from ftx.backbones.layer_roles import vit_blocks
from ftx.recipe.schema import Recipe
from ftx.training import device_placement
from ftx.training.device_placement import place


def small() -> TrainableModel:
    return prepare(Recipe.named({"name": "test_vit", "weights": "none", "image_size": 32}), 3)


@pytest.mark.parametrize(("free_bytes", "plain"), [(1 << 40, True), (1 << 10, False)])
def test_attention_is_computed_as_products_that_fit_into_memory(
    free_bytes: int, plain: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device_placement, "available_bytes", lambda: free_bytes)
    monkeypatch.setattr(device_placement, "keep_freed_memory", lambda: None)
    prepared = small()
    place(prepared, 8)
    vit = prepared.backbone.module
    # Only blocks that train keep their products for a backward.
    assert vit_blocks(vit)[-1].attn.fused_attn is not plain  # pyright: ignore[reportArgumentType]
