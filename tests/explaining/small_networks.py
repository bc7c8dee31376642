"""Small Vision Transformers of each kind that is explained, with biases and scales that matter."""

from __future__ import annotations

from typing import Any

import timm
import torch
from torch import nn

from ftx.data.preprocess import Preprocess

# Each of six blocks at most and sixteen patches or a few more.
FIRST_TOKENS: dict[str, tuple[str, dict[str, Any]]] = {
    "class token": ("vit_tiny_patch16_224", {}),
    "registers and layer scale": ("vit_small_patch14_reg4_dinov2", {"img_size": 56}),
    "two class tokens": ("deit_tiny_distilled_patch16_224", {}),
    "norms of queries and keys": ("vit_tiny_patch16_224", {"qk_norm": True, "scale_attn_norm": True}),
    "no bias": ("vit_tiny_patch16_224", {"qkv_bias": False}),
    "wider than high": ("vit_tiny_patch16_224", {"img_size": (48, 80)}),
    "norm before the blocks": ("vit_base_patch32_clip_224", {"img_size": 128, "embed_dim": 192, "num_heads": 3}),
}


def small(name: str, **changed: Any) -> nn.Module:
    """One of timm's in f64, four blocks deep, its numbers drawn anew so that all of its parts are seen."""
    torch.manual_seed(0)
    model = timm.create_model(name, **{"img_size": 64, "num_classes": 3, "depth": 4, **changed})
    return drawn_anew(model)


def drawn_anew(model: nn.Module) -> nn.Module:
    for name, parameter in model.named_parameters():
        if name.endswith("qkv.weight"):  # timm draws them so small that all tokens are attended to alike
            nn.init.normal_(parameter, std=0.3)
        elif parameter.ndim == 1 or "head" in name:
            nn.init.normal_(parameter, std=0.5)
    return model.double().eval().requires_grad_(False)


def images(height: int, width: int, count: int = 3) -> torch.Tensor:
    return torch.randn(count, 3, height, width, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def images_for(model: nn.Module) -> torch.Tensor:
    height, width = model.patch_embed.img_size
    return images(height, width)


def pre_of(images_N3HW: torch.Tensor) -> Preprocess:
    """An image path of these images' size."""
    height, width = images_N3HW.shape[2:]
    return Preprocess(height, width, (height, width), "bicubic", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
