"""The blocks of a plain Vision Transformer that train, and other ways for them to compute the same.

``recomputing``: a block keeps only its input and computes the rest in the backward again, with less memory and about a
third more time. ``joined_attention``: attention as plain products, on queries, keys and values that stay in one tensor.
``compiled_blocks``: torch compiles what is computed between two products into one pass over memory.

Legend: N images, T tokens, H heads, M = N·H, d width of a head, E = 3·H·d.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from timm.layers.attention import Attention
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ftx.backbones.attention import reads_only_class_token
from ftx.backbones.layer_roles import plain_vit, trains, vit_blocks
from ftx.core.errors import ModelError
from ftx.core.third_parties import quiet_third_parties
from ftx.core.user_cache import cache_folder

Forward = Callable[..., Tensor]


def trained_blocks(module: nn.Module) -> list[nn.Module]:
    """Those with a parameter that trains, in order; none in other families."""
    return [block for block in vit_blocks(module) if trains(block)]


@contextmanager
def computing_by(modules: Sequence[nn.Module], way: Callable[[nn.Module, Forward], Forward]) -> Iterator[None]:
    """Replace the forward of each module by what ``way`` returns for it, until the block of code ends."""
    before = [module.__dict__.get("forward") for module in modules]
    for module in modules:
        module.forward = way(module, module.forward)
    try:
        yield
    finally:
        for module, forward in zip(modules, before, strict=True):
            del module.forward  # its class has one
            if forward is not None:
                module.forward = forward


@contextmanager
def recomputing(module: nn.Module) -> Iterator[None]:
    """Compute activations again in the backward, until the block of code ends. Source: arXiv:1604.06174, section 4.

    Raises: ModelError for a family of timm that cannot.
    """
    if plain_vit(module) is not None:
        with computing_by(trained_blocks(module), _checkpointed):
            yield
        return
    family: Any = module
    try:
        family.set_grad_checkpointing(True)
    except (AttributeError, AssertionError):  # timm asserts that it is not set
        raise ModelError(
            "train.activation_checkpointing must be false for this model",
            where="train.activation_checkpointing",
            found=type(module).__name__,
            fix="remove the key, and set train.accumulation_steps to save memory",
        ) from None
    try:
        yield
    finally:
        family.set_grad_checkpointing(False)


def _checkpointed(_block: nn.Module, forward: Forward) -> Forward:
    return partial(checkpoint, forward, use_reentrant=False)


def joined_attention(blocks: Sequence[nn.Module]) -> AbstractContextManager[None]:
    """Compute the plain attention of blocks on joined queries, keys and values, until the block of code ends.

    timm splits them, and the backward joins their gradients and copies the whole into another layout. Here one copy
    puts all three into the layout of the products, which write each gradient where it belongs, and one copy puts it
    back: the same products of the same numbers.
    """
    layers = [layer for block in blocks for layer in block.modules() if _computes_plain_products(layer)]
    return computing_by(layers, _joined)


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
        with torch.autocast(x_NTD.device.type, enabled=False):  # it computes in the dtype of its input
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
        weights_MTT = torch.bmm(q_MTd, k_MTd.mT).softmax(-1)
        ctx.save_for_backward(qkv_3NHTd, weights_MTT)
        ctx.scale = scale
        y_NHTd = torch.bmm(weights_MTT, v_MTd).view(qkv_3NHTd.shape[1:])
        return y_NHTd.transpose(1, 2).reshape(images, tokens, -1)

    @staticmethod
    def backward(ctx: Any, dy_NTD: Tensor) -> tuple[Tensor, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The gradient of q, k and v side by side. Shape: [N, T, H·d] to [N, T, 3·H·d]."""
        qkv_3NHTd, weights_MTT = ctx.saved_tensors
        _, images, heads, tokens, width = qkv_3NHTd.shape
        q_MTd, k_MTd, v_MTd = qkv_3NHTd.flatten(1, 2)
        dy_MTd = dy_NTD.reshape(images, tokens, heads, width).transpose(1, 2).reshape(-1, tokens, width)
        gradient_3NHTd = torch.empty_like(qkv_3NHTd)
        dq_MTd, dk_MTd, dv_MTd = gradient_3NHTd.flatten(1, 2)
        torch.bmm(weights_MTT.mT, dy_MTd, out=dv_MTd)
        dweights_MTT = torch.bmm(dy_MTd, v_MTd.mT)
        dscores_MTT = torch.ops.aten._softmax_backward_data(dweights_MTT, weights_MTT, -1, weights_MTT.dtype)
        torch.bmm(dscores_MTT, k_MTd, out=dq_MTd)
        torch.bmm(dscores_MTT.mT, q_MTd, out=dk_MTd)  # of q as it was scaled
        gradient_3NHTd[0].mul_(ctx.scale)
        return gradient_3NHTd.permute(1, 3, 0, 2, 4).reshape(images, tokens, -1), None, None


_KIND = "compiled"
_FOLDER = "TORCHINDUCTOR_CACHE_DIR"
# Each kind of block is compiled once, and again if its input needs no gradient or has fewer tokens.
_KINDS_OF_BLOCKS = 64


def blocks_to_compile(module: nn.Module) -> list[nn.Module]:
    """The blocks that train, but for a last one that is computed only for the class token; none in other families."""
    blocks = trained_blocks(module)
    return blocks[:-1] if reads_only_class_token(module) else blocks


@contextmanager
def compiled_blocks(module: nn.Module, images: int) -> Iterator[None]:
    """Let the blocks that train compute this number of images by compiled code, until the block of code ends.

    All else is computed as before. To compile again for another number of images, as in an epoch's last batch, would
    take longer than it saves. Compiled code is kept in the user's cache, where a later training of the same shapes
    finds it.
    """
    with compiling(), computing_by(blocks_to_compile(module), lambda _, forward: compiled(forward, images)):
        try:
            yield
        finally:
            torch.compiler.reset()  # a later training of the process begins as the first did


def compiled(forward: Forward, images: int) -> Forward:
    """A block's forward that computes this number of images in training by compiled code."""
    # Masks of dropout are drawn as they are without, by the seed of the step.
    fast = torch.compile(forward, dynamic=False, options={"fallback_random": True})

    def either(tokens_NTD: Tensor) -> Tensor:
        if not torch.is_grad_enabled() or len(tokens_NTD) != images:
            return forward(tokens_NTD)
        with quiet_third_parties():  # torch warns of what it does itself while it compiles
            return fast(tokens_NTD)

    return either


@contextmanager
def compiling() -> Iterator[Path | None]:
    """Keep compiled code in the user's cache; the folder, if there is one."""
    with quiet_third_parties():  # takes seconds
        import torch._dynamo
        import torch._inductor.compile_fx  # pyright: ignore[reportUnusedImport]

    folder = cache_folder(_KIND, f"torch-{torch.__version__}")
    before = os.environ.get(_FOLDER)  # torch's own default, if nobody set it
    if folder is not None:
        os.environ[_FOLDER] = str(folder)
    try:
        with torch._dynamo.config.patch(recompile_limit=_KINDS_OF_BLOCKS):
            yield folder
    finally:
        if before is None:
            os.environ.pop(_FOLDER, None)
        else:
            os.environ[_FOLDER] = before
