"""The product with the merged weight, and its gradient without a dense weight gradient.

Legend: N tokens, I inputs, O outputs, R ranks (summed over the parts of a fused layer).

Forward: W' = g · (W + s·B·A) is built once, here, of the factors that the gradient goes to (2·O·I·R operations against
2·N·O·I of the product itself), then y = x·W'ᵀ + b is one dense product. Backward needs g·W' for dx and products with a
thin side for dA and dB; the dense dW' of [O, I] is never formed. ``g`` is one for LoRA and m / ‖W + s·B·A‖ for DoRA.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

from ftx.adapters.spec import Part

# s: one for a layer, or one for each rank [R] where the targets of a fused layer have their own alpha / rank.
Scaling = float | Tensor


def summed_weight(weight_OI: Tensor, lora_A_RI: Tensor, lora_B_OR: Tensor, scaling: Scaling) -> Tensor:
    """W + s·B·A in the dtype of the weight. Shape: [O, I]."""
    if isinstance(scaling, Tensor):
        return torch.addmm(weight_OI, lora_B_OR * scaling, lora_A_RI)
    return torch.addmm(weight_OI, lora_B_OR, lora_A_RI, alpha=scaling)


def row_norms(weight_OI: Tensor) -> Tensor:
    """The Euclidean norm of each output's weights. Shape: [O]."""
    return torch.linalg.vector_norm(weight_OI, dim=1)


def gain(magnitude_O: Tensor, norm_O: Tensor) -> Tensor:
    """DoRA's m / ‖W'‖; a row of norm zero has no direction and keeps gain 1. Shape: [O]."""
    return torch.where(norm_O > 0, magnitude_O / norm_O, torch.ones_like(norm_O))


class MergedProduct(torch.autograd.Function):
    """y = x · (g·(W + s·B·A))ᵀ + b, where ``magnitude`` is None for LoRA.

    DoRA's norm of W + s·B·A is a constant of the gradient (arXiv:2402.09353, section 4.3).
    """

    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any,
        x_NI: Tensor,
        weight_OI: Tensor,
        bias_O: Tensor | None,
        lora_A_RI: Tensor,
        lora_B_OR: Tensor,
        magnitude_O: Tensor | None,
        scaling: Scaling,
        parts: tuple[Part, ...],
    ) -> Tensor:
        """Shape: [N, O], in the dtype of x; W' is summed in the dtype of W and rounded once."""
        compute = x_NI.dtype
        bias = None if bias_O is None else bias_O.to(compute)
        product_NO: Tensor | None = None
        summed_OI = summed_weight(weight_OI, lora_A_RI, lora_B_OR, scaling)
        if magnitude_O is None:
            gain_O = None
            merged_OI = summed_OI.to(compute)
            y_NO = linear(x_NI, merged_OI, bias)
        else:
            gain_O = gain(magnitude_O, row_norms(summed_OI))
            merged_OI = (summed_OI * gain_O[:, None]).to(compute)
            if _reduced(compute) and bias is not None:
                # The magnitude's gradient needs the product before its bias: taken off a bf16 output
                # afterwards, the bias leaves a gradient that is 1.4 % off.
                product_NO = linear(x_NI, merged_OI)
                y_NO = product_NO + bias
            else:
                product_NO = y_NO = linear(x_NI, merged_OI, bias)
        ctx.scaling, ctx.parts = scaling, parts
        ctx.save_for_backward(x_NI, merged_OI, lora_A_RI, lora_B_OR, gain_O, magnitude_O, product_NO, bias_O)
        return y_NO

    @staticmethod
    def backward(ctx: Any, dy_NO: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Gradients of x, A, B and the magnitude; the base weight and its bias are frozen."""
        x_NI, merged_OI, lora_A_RI, lora_B_OR, gain_O, magnitude_O, product_NO, bias_O = ctx.saved_tensors
        compute = x_NI.dtype
        dx_NI = dy_NO @ merged_OI if ctx.needs_input_grad[0] else None

        scaling = ctx.scaling if gain_O is None else gain_O[:, None] * ctx.scaling
        scaled_B_OR = lora_B_OR * scaling
        # Laid out as [R, O], and dB computed as its transpose: a thin side that comes first is up to
        # nine times as fast in the CPU's f32 products.
        scaled_B_RO = scaled_B_OR.to(compute).mT.contiguous()
        down_NR = linear(x_NI, lora_A_RI.to(compute))
        up_NR = torch.empty_like(down_NR)
        dB_OR = torch.zeros_like(lora_B_OR)
        for part in ctx.parts:
            dy_part = dy_NO[:, part.rows]
            up_NR[:, part.ranks] = linear(dy_part, scaled_B_RO[part.ranks, part.rows])
            dB_OR[part.rows, part.ranks] = (down_NR[:, part.ranks].mT @ dy_part).mT.to(dB_OR.dtype)
        dB_OR *= scaling
        dA_RI = (up_NR.mT @ x_NI).to(lora_A_RI.dtype)

        dm_O = None
        if magnitude_O is not None:
            dm_O = _magnitude_gradient(dy_NO, product_NO, bias_O, magnitude_O, ctx.parts)
        return dx_NI, None, None, dA_RI, dB_OR, dm_O, None, None


def _magnitude_gradient(
    dy_NO: Tensor, product_NO: Tensor, bias_O: Tensor | None, magnitude_O: Tensor, parts: tuple[Part, ...]
) -> Tensor:
    """dm = Σ_N dy·(y − b) / m; zero for rows that no part owns. Shape: [O]."""
    sum_O = (dy_NO * product_NO).sum(0)  # bf16 is summed in f32 and rounded once
    if bias_O is not None and not _reduced(product_NO.dtype):
        sum_O = sum_O - bias_O * dy_NO.sum(0)
    owned_O = torch.zeros_like(magnitude_O, dtype=torch.bool)
    for part in parts:
        owned_O[part.rows] = True
    # A magnitude of zero leaves no trace of the direction in y; such a row cannot be trained by y alone.
    return torch.where(owned_O & (magnitude_O != 0), sum_O.to(magnitude_O.dtype) / magnitude_O, 0.0)


def _reduced(dtype: torch.dtype) -> bool:
    return dtype in (torch.bfloat16, torch.float16)
