"""How attention is computed, by the memory that its matrices take in a step and while images are evaluated."""

from __future__ import annotations

import pytest
import timm
from torch import nn

from ftx.backbones.dropped_patches import DroppedPatches
from ftx.backbones.kept_tokens import keep_tokens
from ftx.backbones.split_network import attentions_with_backward, plain_attention_bytes, set_attention

# Of vit_tiny at 32 px with patches of 16: 4 patches and the class token; scores and softmax of a head, in f32.
HEADS, TOKENS = 3, 5
A_HEAD = 2 * 4


def small(frozen: int) -> nn.Module:
    """Six blocks, of which the first so many do not train."""
    module = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=6, embed_dim=48, num_heads=HEADS)
    for name, parameter in module.named_parameters():
        block = name.split(".")[1] if name.startswith("blocks.") else "0"
        parameter.requires_grad_(int(block) >= frozen)
    return module


def plain(module: nn.Module) -> list[bool]:
    return [not block.attn.fused_attn for block in module.blocks]


@pytest.mark.parametrize(
    ("settings", "least_bytes"),
    [
        # 4 blocks that train keep the matrices of all for the backward
        ({"batch_size": 7}, 7 * 4 * HEADS * TOKENS**2 * A_HEAD),
        # one layer at a time of images that are evaluated, however many layers there are
        ({"batch_size": 1, "evaluated": 64}, 64 * HEADS * TOKENS**2 * A_HEAD),
        ({"batch_size": 7, "evaluated": 27}, 7 * 4 * HEADS * TOKENS**2 * A_HEAD),
        ({"batch_size": 7, "evaluated": 29}, 29 * HEADS * TOKENS**2 * A_HEAD),
        # in a step some patches are left out, in evaluation none
        ({"batch_size": 7, "dropped": DroppedPatches(0.5)}, 7 * 4 * HEADS * 3**2 * A_HEAD),
        ({"batch_size": 7, "dropped": DroppedPatches(0.5), "evaluated": 11}, 11 * HEADS * TOKENS**2 * A_HEAD),
    ],
)
def test_what_plain_products_take_to_the_byte(settings: dict[str, int], least_bytes: int) -> None:
    assert plain_attention_bytes(small(frozen=2), **settings) == least_bytes


@pytest.mark.parametrize("products", [True, False])
def test_frozen_blocks_in_front_stay_fused(products: bool) -> None:
    module = small(frozen=2)
    set_attention(attentions_with_backward(module), plain=products)
    assert plain(module) == [False, False] + 4 * [products]


def test_tokens_that_a_model_drops_are_not_counted() -> None:
    """Before the first block that trains half of the patches are gone."""
    module = small(frozen=2)
    keep_tokens(module, {2: 0.5})
    least_bytes = 7 * 4 * HEADS * 3**2 * A_HEAD
    assert plain_attention_bytes(module, batch_size=7) == least_bytes
