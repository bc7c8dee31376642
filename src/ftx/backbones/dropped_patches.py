"""Patches left out at random in training: a step computes fewer tokens, and no image is twice the same.

Source: PatchDropout, arXiv:2208.07220, section 3. In evaluation all patches are there.

Legend: N images, K tokens that stay.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from timm.layers import PatchDropout  # pyright: ignore[reportPrivateImportUsage]
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from ftx.backbones.kept_tokens import tokens_behind
from ftx.backbones.layer_roles import plain_vit


@dataclass(frozen=True)
class DroppedPatches:
    """The patches of an image that a step leaves out: a fraction of them, others each time; false if all stay."""

    fraction: float = 0.0

    def __bool__(self) -> bool:
        return self.fraction > 0

    def put_into(self, module: nn.Module) -> None:
        """Let a plain Vision Transformer leave them out in training, in place; other tokens stay.

        They are drawn by timm's layer of that name, behind the embedding. At least one patch stays.
        """
        vit = plain_vit(module)
        assert vit is not None
        vit.patch_drop = PatchDropout(self.fraction, num_prefix_tokens=vit.num_prefix_tokens).train(vit.training)

    def draw(self, tokens: int, always: int, draws: Sequence[np.random.Generator]) -> Tensor:
        """The numbers of the tokens that stay, in their order, where each image's own generator draws its patches.

        The first ``always`` ones, which are no patches, stay, and at least one patch. Shape: [N, K].
        """
        left = self.left(tokens, always)
        chosen_NK = np.empty((len(draws), left), np.int64)
        chosen_NK[:, :always] = np.arange(always)
        for row, rng in zip(chosen_NK, draws, strict=True):
            row[always:] = always + np.sort(rng.choice(tokens - always, left - always, replace=False))
        return torch.from_numpy(chosen_NK)

    def left(self, tokens: int, always: int) -> int:
        """How many of the tokens stay, if ``always`` of them are no patches; rounded as timm does."""
        return always + max(int((tokens - always) * (1 - self.fraction)), 1)

    def step_tokens(self, vit: VisionTransformer, blocks: int) -> int:
        """How many tokens of an image a step computes behind the first ``blocks``."""
        return self.left(tokens_behind(vit, blocks), vit.num_prefix_tokens)


ALL_PATCHES = DroppedPatches()
