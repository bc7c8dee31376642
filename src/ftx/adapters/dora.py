"""DoRA: magnitude and direction of each output's weights apart (arXiv:2402.09353, eq. 5)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout, linear

from ftx.adapters.factors import fresh_factors, keep_scaling, merged_product, side_product
from ftx.adapters.product import Scaling, gain, row_norms, summed_weight
from ftx.adapters.spec import Part


class DoraLinear(nn.Module):
    """W' = m · (W + s·B·A) / ‖W + s·B·A‖, row by row; the bias is not scaled.

    The magnitude is taken from the base weight at construction, so pretrained weights come first.
    """

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
        self.lora_magnitude_vector = nn.Parameter(row_norms(base.weight.detach()))
        self.added_to_in_place = False

    @torch.no_grad()
    def merged_weight(self) -> Tensor:
        """The weight that this layer computes with. Shape: [O, I]."""
        summed_OI = summed_weight(self.weight, self.lora_A, self.lora_B, self.scaling)
        return summed_OI * gain(self.lora_magnitude_vector, row_norms(summed_OI))[:, None]

    def forward(self, x: Tensor) -> Tensor:
        """y = x·W'ᵀ + b. Shape: [..., I] to [..., O]."""
        if self.training and self.dropout > 0:
            return self._with_dropout(x)
        factors = (self.lora_A, self.lora_B)
        y = merged_product(x, self.weight, self.bias, factors, self.lora_magnitude_vector, self.scaling, self.parts)
        # The product is kept for the magnitude's gradient; who adds to it in place is given a copy.
        return y.clone() if self.added_to_in_place else y

    def _with_dropout(self, x: Tensor) -> Tensor:
        """The side path with peft's meaning: x·Wᵀ + b + (g − 1)·x̃·Wᵀ + g·s·x̃·(B·A)ᵀ for the dropped x̃."""
        with torch.no_grad():  # the norm is a constant of the gradient (section 4.3)
            norm_O = row_norms(summed_weight(self.weight, self.lora_A, self.lora_B, self.scaling))
        x_dropped = dropout(x, self.dropout)
        gain_O = gain(self._owned_magnitude(), norm_O)
        side = side_product(x_dropped, (self.lora_A, self.lora_B), self.scaling, self.parts, self.out_features)
        moved = (gain_O - 1) * linear(x_dropped, self.weight) + gain_O * side
        return linear(x, self.weight, self.bias) + moved

    def _owned_magnitude(self) -> Tensor:
        """The magnitude, held constant in rows that no part owns. Shape: [O]."""
        magnitude_O = self.lora_magnitude_vector.detach().clone()
        for part in self.parts:
            magnitude_O[part.rows] = self.lora_magnitude_vector[part.rows]
        return magnitude_O
