"""timm's attention in its parts, and the last block computed only for the class token.

A classifier that pools by its class token throws the other tokens' last attention and MLP away. Leaving them out
changes neither logits nor gradients, and saves three quarters of one block of twelve in a training step.

Legend: N images, T tokens, Q tokens that make queries, D width, H heads, d width of a head.
"""

from __future__ import annotations

from timm.layers.attention import Attention
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from ftx.backbones.layer_roles import vit_blocks


def is_plain(block: nn.Module) -> bool:
    """Whether a block is timm's own around timm's own attention, without a gate; subclasses compute otherwise."""
    return type(block) is Block and type(block.attn) is Attention and getattr(block.attn, "gate", None) is None


def project(attn: nn.Module, x_NTD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values of all tokens, as they are compared. Shape: [N, T, D] to three of [N, H, T, d]."""
    assert isinstance(attn, Attention)
    q_NHTd, k_NHTd, v_NHTd = queries_keys_values(attn, x_NTD)
    return attn.q_norm(q_NHTd), attn.k_norm(k_NHTd), v_NHTd


def queries_keys_values(attn: nn.Module, x_NTD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What the linear layer makes of all tokens, before any norm. Shape: [N, T, D] to three of [N, H, T, d]."""
    assert isinstance(attn, Attention)
    images, tokens, _ = x_NTD.shape
    qkv_NT3Hd = attn.qkv(x_NTD).view(images, tokens, 3, attn.num_heads, -1)
    q_NHTd, k_NHTd, v_NHTd = qkv_NT3Hd.permute(2, 0, 3, 1, 4).unbind(0)
    return q_NHTd, k_NHTd, v_NHTd


def attend(attn: nn.Module, q_NHQd: Tensor, k_NHTd: Tensor, v_NHTd: Tensor) -> Tensor:
    """What Q queries read from all tokens, by the kernel that the model is set to. Shape: [N, Q, D]."""
    assert isinstance(attn, Attention)
    if attn.fused_attn:
        dropped = attn.attn_drop.p if attn.training else 0.0
        y_NHQd = scaled_dot_product_attention(q_NHQd, k_NHTd, v_NHTd, dropout_p=dropped)
    else:
        y_NHQd = attn.attn_drop(attention_weights(attn, q_NHQd, k_NHTd)) @ v_NHTd
    images, _, queries, _ = q_NHQd.shape
    y_NQD = y_NHQd.transpose(1, 2).reshape(images, queries, -1)
    return attn.proj_drop(attn.proj(attn.norm(y_NQD)))


def attention_weights(attn: nn.Module, q_NHQd: Tensor, k_NHTd: Tensor) -> Tensor:
    """How much each query attends to each token; the weights of a query add up to 1. Shape: [N, H, Q, T]."""
    assert isinstance(attn, Attention)
    return ((q_NHQd * attn.scale) @ k_NHTd.transpose(-2, -1)).softmax(dim=-1)


def reads_only_class_token(module: nn.Module) -> bool:
    """Whether the head reads one token, and ``class_token`` can compute the last of several blocks."""
    if type(module) is not VisionTransformer or module.global_pool != "token" or module.attn_pool is not None:
        return False
    blocks = vit_blocks(module)
    return len(blocks) > 1 and is_plain(blocks[-1])


def class_token(block: nn.Module, tokens_NTD: Tensor) -> Tensor:
    """The block's output for the first token: ``block(x)[:, :1]``. Shape: [N, T, D] to [N, 1, D]."""
    assert isinstance(block, Block)
    q_NHTd, k_NHTd, v_NHTd = project(block.attn, block.norm1(tokens_NTD))
    x_N1D = tokens_NTD[:, :1]
    x_N1D = x_N1D + block.drop_path1(block.ls1(attend(block.attn, q_NHTd[:, :, :1], k_NHTd, v_NHTd)))
    return x_N1D + block.drop_path2(block.ls2(block.mlp(block.norm2(x_N1D))))
