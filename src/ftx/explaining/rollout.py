"""Attention rollout: how much of each patch reaches what the head reads, by the attention of all blocks in turn.

It shows where a network looks, and not for which label; ReciproCAM shows the latter.

Source: arXiv:2005.00928, section 3: of each block the attention's mean over its heads, to half, and the residual
connection, to the other half; the blocks' matrices are multiplied. What is in front of the patches passes on what it
gathered, and is no part of the map.

Legend: N images, T tokens, K tokens that stay, P patches, D width, H heads, d width of a head, h x w the grid of
patches.
"""

from __future__ import annotations

from typing import cast

import torch
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from ftx.backbones.attention import attention_weights, is_plain, project
from ftx.backbones.kept_tokens import SelectingBlock, recorded_choices
from ftx.backbones.layer_roles import plain_vit, vit_blocks
from ftx.core.errors import ModelError
from ftx.explaining.reciprocam import in_unit_range


class Rollout(nn.Module):
    """A plain Vision Transformer with the map of where it looks."""

    def __init__(self, module: nn.Module) -> None:
        """Wrap the network.

        Raises: ModelError for one whose attention cannot be read.
        """
        super().__init__()
        vit = plain_vit(module)
        found = None
        if vit is None:
            found = "its blocks are not those of a plain Vision Transformer"
        elif vit.attn_pool is not None:
            found = "its head pools by attention"
        else:
            for block in vit_blocks(vit):
                if not (is_plain(block) or isinstance(block, SelectingBlock)):
                    found = f"its blocks are of the kind {type(block).__name__}"
                    break
        if found is not None:
            raise ModelError(
                "--map rollout needs a network whose tokens all attend to each other",
                where=type(module).__name__,
                found=found,
                fix="use --map reciprocam",
            )
        self.vit = cast("VisionTransformer", vit)
        self.grid = cast("tuple[int, int]", self.vit.patch_embed.grid_size)

    def forward(self, images_N3HW: Tensor) -> tuple[Tensor, Tensor]:
        """Logits, and one map in [0, 1] for all labels. Shape: [N, C] and [N, 1, h, w]."""
        inputs: list[tuple[Block, Tensor]] = []

        def note(block: nn.Module, given: tuple[Tensor]) -> None:
            inputs.append((cast("Block", block), given[0]))

        hooks = [block.register_forward_pre_hook(note) for block in vit_blocks(self.vit)]
        try:
            with recorded_choices(self.vit) as chosen:
                logits_NC = self.vit(images_N3HW)
        finally:
            for hook in hooks:
                hook.remove()
        images, tokens, _ = inputs[0][1].shape
        reached_NTT = torch.eye(tokens, dtype=logits_NC.dtype, device=logits_NC.device).expand(images, -1, -1)
        choices = iter(chosen)
        for block, tokens_NTD in inputs:
            q_NHTd, k_NHTd, _ = project(block.attn, block.norm1(tokens_NTD))
            shares_NTT = attention_weights(block.attn, q_NHTd, k_NHTd).mean(dim=1)
            passed_NTT = (shares_NTT @ reached_NTT + reached_NTT) / 2
            if isinstance(block, SelectingBlock):
                chosen_NK1 = next(choices)[:, :, None]
                passed_NTT = passed_NTT.gather(1, chosen_NK1.expand(-1, -1, tokens))
            reached_NTT = passed_NTT
        in_front = self.vit.num_prefix_tokens
        read_NT = reached_NTT[:, self._read].mean(dim=1)
        return logits_NC, in_unit_range(read_NT[:, None, in_front:]).unflatten(2, self.grid)

    @property
    def _read(self) -> slice:
        """The tokens that the head reads."""
        if isinstance(self.vit, VisionTransformerDistilled):
            return slice(0, 2)
        if self.vit.global_pool == "token":
            return slice(0, 1)
        return slice(0 if self.vit.pool_include_prefix else self.vit.num_prefix_tokens, None)
