"""Patches left out at random in training: a step computes fewer tokens, and no image is twice the same.

Source: PatchDropout, arXiv:2208.07220, section 3. In evaluation all patches are there.

Legend: N images, T tokens, K tokens that stay, D width, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from ftx.backbones.kept_tokens import take, tokens_behind
from ftx.backbones.layer_roles import plain_vit


@dataclass(frozen=True)
class DroppedPatches:
    """The patches of an image that a step leaves out: a fraction of them, others each time; false if all stay."""

    fraction: float = 0.0

    def __bool__(self) -> bool:
        return self.fraction > 0

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


class PatchChoice(nn.Module):
    """In place of timm's layer behind the embedding: passes on the tokens with the given numbers; None: all."""

    chosen_NK: Tensor | None = None

    def forward(self, tokens_NTD: Tensor) -> Tensor:
        """Shape: [N, T, D] to [N, K, D]."""
        return tokens_NTD if self.chosen_NK is None else take(tokens_NTD, self.chosen_NK)


class OnChosenPatches(nn.Module):
    """A network that computes, behind the embedding of its plain Vision Transformer, only chosen tokens of an image.

    From now on the Vision Transformer contains this choice, which a second such network shares; its parameters keep
    their names.
    """

    def __init__(self, network: nn.Module, module: nn.Module) -> None:
        super().__init__()
        vit = plain_vit(module)
        assert vit is not None
        choice = vit.patch_drop if isinstance(vit.patch_drop, PatchChoice) else PatchChoice()
        vit.add_module("patch_drop", choice)
        self.network, self.choice = network, choice
        self.tokens, self.always = tokens_behind(vit, 0), vit.num_prefix_tokens

    def forward(self, images_N3HW: Tensor, chosen_NK: Tensor | None = None) -> Tensor:
        """Shape: [N, C]."""
        self.choice.chosen_NK = chosen_NK
        try:
            return self.network(images_N3HW)
        finally:
            self.choice.chosen_NK = None
