"""Where a training computes, and how."""

from __future__ import annotations

import pytest

from ftx.adapters.trainable_model import prepare
from ftx.backbones.layer_roles import vit_blocks
from ftx.recipe.schema import Recipe
from ftx.training import device_placement
from ftx.training.device_placement import computes_bf16, place


@pytest.mark.parametrize("plain", [True, False])
def test_attention_is_computed_as_planned(plain: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_placement, "keep_freed_memory", lambda: None)
    prepared = prepare(Recipe.named({"name": "test_vit", "weights": "none", "image_size": 32}), 3)
    place(prepared, plain_attention=plain)
    # Only blocks that train keep their products for a backward.
    assert vit_blocks(prepared.backbone.module)[-1].attn.fused_attn is not plain  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(("flags", "computes"), [({"amx_bf16", "x"}, True), ({"avx512_bf16"}, True), ({"avx2"}, False)])
def test_bf16_is_computed_by_processors_that_have_it(
    flags: set[str], computes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device_placement, "cpu_flags", lambda: flags)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert computes_bf16() == computes
