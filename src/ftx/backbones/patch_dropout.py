"""Patches left out at random in training: a step computes fewer tokens, and sees no image twice the same.

Source: PatchDropout, arXiv:2208.07220, section 3, by timm's layer of that name. In evaluation all patches are there.
"""

from __future__ import annotations

from timm.layers.patch_dropout import PatchDropout
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from ftx.backbones.kept_tokens import tokens_behind
from ftx.backbones.layer_roles import plain_vit
from ftx.core.errors import ModelError


def drop_patches(module: nn.Module, share: float) -> None:
    """Let a plain Vision Transformer leave out this share of its patches in training, in place; other tokens stay.

    At least one patch stays. Where its first blocks are computed beforehand, what comes behind them leaves patches out.
    Raises: ModelError for another family, whose patches are not free to go.
    """
    vit = plain_vit(module)
    if vit is None:
        raise ModelError(
            "patches can be left out of a plain Vision Transformer alone",
            where="train.patch_dropout",
            found=type(module).__name__,
            fix="leave the key out, or take a plain Vision Transformer: --model dinov2-small",
        )
    vit.patch_drop = PatchDropout(share, num_prefix_tokens=vit.num_prefix_tokens).train(vit.training)


def trained_tokens_behind(vit: VisionTransformer, count: int) -> int:
    """How many tokens come out of the first so many blocks in training."""
    tokens, always = tokens_behind(vit, count), vit.num_prefix_tokens
    if not isinstance(vit.patch_drop, PatchDropout):
        return tokens
    return always + max(int((tokens - always) * (1 - vit.patch_drop.prob)), 1)
