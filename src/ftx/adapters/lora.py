"""LoRA: a linear layer whose weight is W + s·B·A (arXiv:2106.09685, eq. 3)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout, linear

from ftx.adapters.factors import fresh_factors, keep_scaling, merged_product, side_product
from ftx.adapters.product import Scaling, summed_weight
from ftx.adapters.spec import Part


class LoraLinear(nn.Module):
    """Keeps the base layer's ``weight`` and ``bias`` under their own names, frozen, beside A and B."""

    def __init__(
        self, base: nn.Linear, parts: tuple[Part, ...], *, scaling: Scaling, dropout: float, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.in_features, self.out_features = base.in_features, base.out_features
        self.weight = base.weight.requires_grad_(False)
        self.bias = None if base.bias is None else base.bias.requires_grad_(False)  # pyright: ignore[reportUnnecessaryComparison]
        self.parts, self.dropout = parts, dropout
        self.scaling: Scaling
        keep_scaling(self, scaling)
        lora_A, lora_B = fresh_factors(base, parts, generator)
        self.lora_A, self.lora_B = nn.Parameter(lora_A), nn.Parameter(lora_B)

    @torch.no_grad()
    def merged_weight(self) -> Tensor:
        """The weight that this layer computes with. Shape: [O, I]."""
        return summed_weight(self.weight, self.lora_A, self.lora_B, self.scaling)

    def forward(self, x: Tensor) -> Tensor:
        """y = x·(W + s·B·A)ᵀ + b. Shape: [..., I] to [..., O]."""
        if self.training and self.dropout > 0:
            # A dropped input reaches the adapter alone, which one merged weight cannot express.
            x_dropped = dropout(x, self.dropout)
            factors = (self.lora_A, self.lora_B)
            side = side_product(x_dropped, factors, self.scaling, self.parts, self.out_features)
            return linear(x, self.weight, self.bias) + side
        factors = (self.lora_A, self.lora_B)
        return merged_product(x, self.weight, self.bias, factors, None, self.scaling, self.parts)
