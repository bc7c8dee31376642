"""Patches dropped as the recipe says it, image by image: timm's own blocks, and a choice between two of them."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from timm.models.vision_transformer import VisionTransformer


def logits_by_hand(vit: VisionTransformer, images_N3HW: torch.Tensor, shares: Mapping[int, float]) -> torch.Tensor:
    """Each block of timm's whole, and behind it the choice, one image at a time. Shape: [N, C]."""
    answers: list[torch.Tensor] = []
    for image in images_N3HW:
        x_1TD = vit.norm_pre(vit.patch_drop(vit._pos_embed(vit.patch_embed(image[None]))))
        for number, block in enumerate(vit.blocks):
            scores_T = class_attention(block, x_1TD)
            x_1TD = block(x_1TD)
            if number + 1 in shares:
                x_1TD = x_1TD[:, chosen(scores_T, vit.num_prefix_tokens, shares[number + 1])]
        answers.append(vit.forward_head(vit.norm(x_1TD)))
    return torch.cat(answers)


def class_attention(block: torch.nn.Module, x_1TD: torch.Tensor) -> np.ndarray:
    """The mean over heads of softmax(q·k / √d) for the class token's query. Shape: [T]."""
    attn, x_TD = block.attn, block.norm1(x_1TD)[0]
    tokens, width = x_TD.shape
    q_TD, k_TD, _ = attn.qkv(x_TD).split(width, dim=1)
    found: list[np.ndarray] = []
    for q_Td, k_Td in zip(q_TD.split(attn.head_dim, 1), k_TD.split(attn.head_dim, 1), strict=True):
        q_d, k_Td = attn.q_norm(q_Td)[0], attn.k_norm(k_Td)
        power_T = np.exp((k_Td @ q_d / math.sqrt(attn.head_dim)).detach().double().numpy())
        found.append(power_T / power_T.sum())
    assert len(found[0]) == tokens
    return np.mean(found, axis=0)


def chosen(scores_T: np.ndarray, prefix: int, share: float) -> list[int]:
    """The tokens in front, and the best of the patches: of two of one score that of the lower number."""
    patches = sorted(range(prefix, len(scores_T)), key=lambda token: (-scores_T[token], token))
    kept = math.ceil(round(share * len(patches), 9))
    return [*range(prefix), *sorted(patches[:kept])]
