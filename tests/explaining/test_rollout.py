"""Where a network looks: the product of its blocks' attention, multiplied out by hand."""

from __future__ import annotations

import math

import pytest
import timm
import torch
from tests.backbones.dropped_by_hand import chosen, class_attention
from tests.explaining.small_networks import FIRST_TOKENS, images_for, small
from torch import Tensor, nn

from ftx.backbones.kept_tokens import keep_tokens
from ftx.core.errors import ModelError
from ftx.explaining.rollout import Rollout


def attention(block: nn.Module, x_TD: Tensor) -> Tensor:
    """Softmax(q·k / √d), its mean over heads. Shape: [T, T]."""
    attn, found = block.attn, []
    q_TD, k_TD, _ = attn.qkv(block.norm1(x_TD)).chunk(3, dim=1)
    for q_Td, k_Td in zip(q_TD.split(attn.head_dim, 1), k_TD.split(attn.head_dim, 1), strict=True):
        found.append(((attn.q_norm(q_Td) @ attn.k_norm(k_Td).T) / math.sqrt(attn.head_dim)).softmax(dim=1))
    return torch.stack(found).mean(dim=0)


def by_hand(vit: nn.Module, image_3HW: Tensor, read: slice, dropped: dict[int, float] | None = None) -> Tensor:
    """Shape: [P]."""
    x_1TD = vit.norm_pre(vit.patch_drop(vit._pos_embed(vit.patch_embed(image_3HW[None]))))
    product = torch.eye(x_1TD.shape[1], dtype=x_1TD.dtype)
    for number, block in enumerate(vit.blocks):
        scores = class_attention(block, x_1TD)
        product = (attention(block, x_1TD[0]) / 2 + torch.eye(x_1TD.shape[1], dtype=x_1TD.dtype) / 2) @ product
        x_1TD = block(x_1TD)
        if number + 1 in (dropped or {}):
            kept = chosen(scores, vit.num_prefix_tokens, dropped[number + 1])
            x_1TD, product = x_1TD[:, kept], product[kept]
    row = product[read].mean(dim=0)[vit.num_prefix_tokens :]
    return (row - row.min()) / (row.max() - row.min())


@pytest.mark.parametrize("kind", FIRST_TOKENS)
def test_the_map_is_the_product_of_all_blocks(kind: str) -> None:
    name, changed = FIRST_TOKENS[kind]
    vit = small(name, **changed)
    x = images_for(vit)
    logits, maps = Rollout(vit)(x)
    read = slice(0, 2 if kind == "two class tokens" else 1)
    assert maps.shape == (3, 1, *vit.patch_embed.grid_size)
    expected = torch.stack([by_hand(vit, image, read) for image in x])
    torch.testing.assert_close(maps.flatten(1), expected, rtol=0, atol=1e-10)  # f64, scaled by a row's span
    torch.testing.assert_close(logits, vit(x), rtol=0, atol=1e-12)


@pytest.mark.parametrize("with_class_token", [False, True])
def test_a_head_that_reads_the_mean_looks_where_all_that_it_reads_do(with_class_token: bool) -> None:
    vit = small("vit_tiny_patch16_224", global_pool="avg", pool_include_prefix=with_class_token)
    x = images_for(vit)
    expected = torch.stack([by_hand(vit, image, slice(0 if with_class_token else 1, None)) for image in x])
    torch.testing.assert_close(Rollout(vit)(x)[1].flatten(1), expected, rtol=0, atol=1e-10)


def test_patches_that_were_dropped_count_by_what_went_on() -> None:
    vit = small("vit_small_patch14_reg4_dinov2", img_size=56)
    x, shares = images_for(vit), {1: 0.7, 3: 0.5}
    expected = torch.stack([by_hand(vit, image, slice(0, 1), shares) for image in x])
    keep_tokens(vit, shares)
    torch.testing.assert_close(Rollout(vit)(x)[1].flatten(1), expected, rtol=0, atol=1e-10)


def test_a_map_leaves_nothing_in_the_network() -> None:
    """Whoever asks a thousand times pays a thousand times as much, also where a picture cannot be computed."""
    vit = small("vit_small_patch14_reg4_dinov2", img_size=56)
    keep_tokens(vit, {1: 0.7})
    x, rollout = images_for(vit), Rollout(vit)
    before = [(len(one._forward_pre_hooks), len(one._forward_hooks)) for one in vit.modules()]
    first = rollout(x)
    with pytest.raises((AssertionError, RuntimeError)):
        rollout(x[:, :, :-14])
    for one, other in zip(first, rollout(x), strict=True):
        assert one.equal(other)
    assert [(len(one._forward_pre_hooks), len(one._forward_hooks)) for one in vit.modules()] == before


@pytest.mark.parametrize(
    "name", ["swin_tiny_patch4_window7_224", "vit_small_patch16_dinov3", "vit_base_patch16_siglip_224"]
)
def test_attention_of_another_kind_is_refused_with_the_other_method(name: str) -> None:
    with pytest.raises(ModelError, match="--map reciprocam"):
        Rollout(timm.create_model(name, num_classes=3))
