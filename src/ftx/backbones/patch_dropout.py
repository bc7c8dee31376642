"""Patches left out at random in training: a step computes fewer tokens, and sees no image twice the same.

Source: PatchDropout, arXiv:2208.07220, section 3. In evaluation all patches are there.

Legend: N images, K tokens that stay.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from timm.layers.patch_dropout import PatchDropout
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from ftx.backbones.kept_tokens import tokens_behind
from ftx.backbones.layer_roles import plain_vit
from ftx.core.errors import ModelError


def drop_patches(module: nn.Module, share: float) -> None:
    """Let a plain Vision Transformer leave out this share of its patches in training, in place; other tokens stay.

    They are drawn by timm's layer of that name, behind the embedding. At least one patch stays.
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


def drawn_tokens(tokens: int, always: int, share: float, draws: Sequence[np.random.Generator]) -> Tensor:
    """The numbers of the tokens that stay, in their order, where each image's own generator draws its patches.

    The first ``always`` ones, which are no patches, stay, and at least one patch. Shape: [N, K].
    """
    left = tokens_left(tokens, always, share)
    chosen_NK = np.empty((len(draws), left), np.int64)
    chosen_NK[:, :always] = np.arange(always)
    for row, rng in zip(chosen_NK, draws, strict=True):
        row[always:] = always + np.sort(rng.choice(tokens - always, left - always, replace=False))
    return torch.from_numpy(chosen_NK)


def tokens_left(tokens: int, always: int, share: float) -> int:
    """How many of so many tokens stay, where ``always`` ones are no patches; rounded as timm does."""
    return always + max(int((tokens - always) * (1 - share)), 1)


def step_tokens(vit: VisionTransformer, blocks: int, share: float) -> int:
    """How many tokens of an image a step has behind the first so many blocks."""
    return tokens_left(tokens_behind(vit, blocks), vit.num_prefix_tokens, share)
