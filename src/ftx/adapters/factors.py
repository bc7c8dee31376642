"""What LoRA and DoRA share: the two thin matrices and the call of the merged product."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from ftx.adapters.product import MergedProduct, Scaling
from ftx.adapters.spec import Part


def fresh_factors(base: nn.Linear, parts: tuple[Part, ...], generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """A drawn as a linear layer's weight is, B zero, so that a fresh adapter changes nothing.

    Shape: A [R, I], B [O, R].
    Source: LoRA, arXiv:2106.09685, section 4.1; the uniform draw with bound 1/√I is that of its authors' code.
    """
    ranks = max(part.ranks.stop for part in parts)
    weight = base.weight
    bound = 1 / math.sqrt(base.in_features)
    lora_A_RI = torch.empty(ranks, base.in_features, dtype=weight.dtype).uniform_(-bound, bound, generator=generator)
    lora_B_OR = torch.zeros(base.out_features, ranks, dtype=weight.dtype)
    return lora_A_RI.to(weight.device), lora_B_OR.to(weight.device)


def layer_scaling(parts: tuple[Part, ...], each: Sequence[float]) -> Scaling:
    """One number where all parts of a layer are scaled alike, else one for each rank [R]."""
    if len(set(each)) == 1:
        return each[0]
    ranks = torch.tensor([part.ranks.stop - part.ranks.start for part in parts])
    return torch.tensor(each).repeat_interleave(ranks)


def keep_scaling(layer: nn.Module, scaling: Scaling) -> None:
    """Give a layer its scaling: one number, or one for each rank, as a buffer that goes where the layer goes."""
    if isinstance(scaling, Tensor):
        layer.register_buffer("scaling", scaling.to(layer.get_parameter("weight")), persistent=False)
    else:
        setattr(layer, "scaling", scaling)  # noqa: B010 - nn.Module types its attributes as tensors


def side_product(
    x: Tensor,
    factors: tuple[Tensor, Tensor],
    scaling: Scaling,
    parts: tuple[Part, ...],
    out_features: int,
) -> Tensor:
    """s·x·(B·A)ᵀ part by part, so that the zeros of a fused layer's B get no gradient. Shape: [..., I] to [..., O]."""
    lora_A_RI, lora_B_OR = factors
    down = linear(x, lora_A_RI) * scaling
    up = down.new_zeros(*x.shape[:-1], out_features)
    for part in parts:
        up[..., part.rows] = linear(down[..., part.ranks], lora_B_OR[part.rows, part.ranks])
    return up


def merged_product(
    x: Tensor,
    weight_OI: Tensor,
    bias_O: Tensor | None,
    factors: tuple[Tensor, Tensor],
    magnitude_O: Tensor | None,
    scaling: Scaling,
    parts: tuple[Part, ...],
) -> Tensor:
    """``MergedProduct`` over any leading dimensions, in autocast's dtype where that is on."""
    device = x.device.type
    if torch.is_autocast_enabled(device):
        x = x.to(torch.get_autocast_dtype(device))
    # Inside, every cast is written out: autocast would round A and B before they are summed into W'.
    with torch.autocast(device, enabled=False):
        y_NO = MergedProduct.apply(x.reshape(-1, x.shape[-1]), weight_OI, bias_O, *factors, magnitude_O, scaling, parts)
    return y_NO.view(*x.shape[:-1], -1)
