"""The last block for the class token alone, where nothing else of it is read.

A classifier that pools by its class token throws the other tokens' last attention and MLP away. Leaving them out
changes neither logits nor gradients, and saves three quarters of one block of twelve in a training step.

Legend: N images, T tokens, D width.
"""

from __future__ import annotations

from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from ftx.backbones.attention import attend, is_plain, project


def reads_only_class_token(vit: VisionTransformer) -> bool:
    """Whether the head reads one token, and the last block is of the kind that ``class_token`` knows."""
    if type(vit) is not VisionTransformer or vit.global_pool != "token" or vit.attn_pool is not None:
        return False
    last: nn.Module | None = None
    for block in vit.blocks.children():
        last = block
    return last is not None and is_plain(last)


def class_token(block: nn.Module, tokens_NTD: Tensor) -> Tensor:
    """What the block makes of the first token: ``block(x)[:, :1]``. Shape: [N, T, D] to [N, 1, D]."""
    assert isinstance(block, Block)
    q_NHTd, k_NHTd, v_NHTd = project(block.attn, block.norm1(tokens_NTD))
    x_N1D = tokens_NTD[:, :1]
    x_N1D = x_N1D + block.drop_path1(block.ls1(attend(block.attn, q_NHTd[:, :, :1], k_NHTd, v_NHTd)))
    return x_N1D + block.drop_path2(block.ls2(block.mlp(block.norm2(x_N1D))))
