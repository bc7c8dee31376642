"""Attention as plain products in training, on queries, keys and values that stay in one tensor.

timm takes them apart, and the backward joins their gradients and lays the whole out again. Here one copy lays all three
out for the products, which write each gradient where it belongs in that layout, and one copy lays it back: the same
products of the same numbers.

Legend: N images, T tokens, H heads, M = N·H, d width of a head, E = 3·H·d.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from timm.layers.attention import Attention
from torch import Tensor, nn

from ftx.backbones.trained_blocks import Forward, computing_by


@contextmanager
def joined_attention(blocks: Sequence[nn.Module]) -> Iterator[None]:
    """Let the attention of blocks compute so where it is plain, until the block of code ends."""
    layers = [layer for block in blocks for layer in block.modules() if _computes_plain_products(layer)]
    with ExitStack() as all_of_them:
        for layer in layers:
            all_of_them.enter_context(computing_by([layer], partial(_joined, layer)))
        yield


def _computes_plain_products(layer: nn.Module) -> bool:
    """Whether a layer is timm's attention as plain products, with nothing between its projections and these."""
    if type(layer) is not Attention or layer.fused_attn:
        return False
    unnormed = isinstance(layer.q_norm, nn.Identity) and isinstance(layer.k_norm, nn.Identity)
    return unnormed and getattr(layer, "gate", None) is None and layer.attn_drop.p == 0


def _joined(layer: nn.Module, forward: Forward) -> Forward:
    assert isinstance(layer, Attention)

    def attend(x_NTD: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        if attn_mask is not None or is_causal or not torch.is_grad_enabled():
            return forward(x_NTD, attn_mask=attn_mask, is_causal=is_causal)
        qkv_NTE = layer.qkv(x_NTD)
        with torch.autocast(x_NTD.device.type, enabled=False):  # it computes in the dtype of what it is given
            y_NTD = JoinedAttention.apply(qkv_NTE, layer.num_heads, layer.scale)
        return layer.proj_drop(layer.proj(layer.norm(y_NTD)))

    return attend


class JoinedAttention(torch.autograd.Function):
    """softmax(s·q·kᵀ)·v of each head, for a scale s.

    Source: Attention Is All You Need, arXiv:1706.03762, eq. 1.
    """

    @staticmethod
    def forward(ctx: Any, qkv_NTE: Tensor, heads: int, scale: float) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Shape: [N, T, 3·H·d], as one linear layer gives q, k and v, to [N, T, H·d]."""
        images, tokens, _ = qkv_NTE.shape
        apart_3NHTd = qkv_NTE.reshape(images, tokens, 3, heads, -1).permute(2, 0, 3, 1, 4)
        qkv_3NHTd = apart_3NHTd.clone(memory_format=torch.contiguous_format)
        qkv_3NHTd[0].mul_(scale)
        q_MTd, k_MTd, v_MTd = qkv_3NHTd.flatten(1, 2)
        shares_MTT = torch.bmm(q_MTd, k_MTd.mT).softmax(-1)
        ctx.save_for_backward(qkv_3NHTd, shares_MTT)
        ctx.scale = scale
        y_NHTd = torch.bmm(shares_MTT, v_MTd).view(qkv_3NHTd.shape[1:])
        return y_NHTd.transpose(1, 2).reshape(images, tokens, -1)

    @staticmethod
    def backward(ctx: Any, dy_NTD: Tensor) -> tuple[Tensor, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The gradient of q, k and v side by side. Shape: [N, T, H·d] to [N, T, 3·H·d]."""
        qkv_3NHTd, shares_MTT = ctx.saved_tensors
        _, images, heads, tokens, width = qkv_3NHTd.shape
        q_MTd, k_MTd, v_MTd = qkv_3NHTd.flatten(1, 2)
        dy_MTd = dy_NTD.reshape(images, tokens, heads, width).transpose(1, 2).reshape(-1, tokens, width)
        gradient_3NHTd = torch.empty_like(qkv_3NHTd)
        dq_MTd, dk_MTd, dv_MTd = gradient_3NHTd.flatten(1, 2)
        torch.bmm(shares_MTT.mT, dy_MTd, out=dv_MTd)
        dshares_MTT = torch.bmm(dy_MTd, v_MTd.mT)
        dscores_MTT = torch.ops.aten._softmax_backward_data(dshares_MTT, shares_MTT, -1, shares_MTT.dtype)
        torch.bmm(dscores_MTT, k_MTd, out=dq_MTd)
        torch.bmm(dscores_MTT.mT, q_MTd, out=dk_MTd)  # of q as it was scaled
        gradient_3NHTd[0].mul_(ctx.scale)
        return gradient_3NHTd.permute(1, 3, 0, 2, 4).reshape(images, tokens, -1), None, None
