"""ViT-ReciproCAM as its paper has it: a pass through the rest of the network for each mask."""

from __future__ import annotations

from typing import Any

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor


def scores_by_hand(vit: VisionTransformer, tokens_NTD: Tensor, patches: Tensor | None = None) -> Tensor:
    """Logits of the last block's tokens under each mask. Shape: [N, T, D] to [N, C, h w].

    ``patches`` has the numbers of those that are still there, of each image; by default all.
    """
    block: Any = list(vit.blocks.children())[-1]
    in_front, (height, width) = vit.num_prefix_tokens, vit.patch_embed.grid_size
    images = tokens_NTD.shape[0]
    normed_NTD = block.norm1(tokens_NTD)
    scores: list[Tensor] = []
    for patch in range(height * width):
        mask_NP = torch.zeros(images, height * width, dtype=tokens_NTD.dtype)
        mask_NP[:, patch] = 1
        if patches is not None:
            mask_NP = mask_NP.gather(1, patches)
        mask_NT1 = torch.cat([torch.ones(images, in_front, dtype=mask_NP.dtype), mask_NP], dim=1)[..., None]
        x_NTD = tokens_NTD * mask_NT1 + block.ls1(block.attn(normed_NTD * mask_NT1))
        x_NTD = x_NTD + block.ls2(block.mlp(block.norm2(x_NTD)))
        scores.append(vit.forward_head(vit.norm(x_NTD)))
    return torch.stack(scores, dim=-1)


def scaled(scores_NCM: Tensor) -> Tensor:
    """Each label's scores between 0 and 1."""
    low, high = scores_NCM.min(dim=-1, keepdim=True).values, scores_NCM.max(dim=-1, keepdim=True).values
    return (scores_NCM - low) / (high - low)
