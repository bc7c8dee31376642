"""THE merge of one weight, in float64 and numpy alone, and the separate products that prove it.

Legend: N tokens, I inputs, O outputs, R ranks.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ftx.core.errors import MergeError

Float64 = NDArray[np.float64]


@dataclass(frozen=True)
class AdapterWeights:
    """The adapter of one linear layer. Shape: A [R, I], B [O, R], magnitude [O] for DoRA, None for LoRA."""

    lora_A_RI: Float64
    lora_B_OR: Float64
    scaling: float
    magnitude_O: Float64 | None = None


def merged_weight(weight_OI: Float64, adapter: AdapterWeights) -> Float64:
    """Fold the adapter into one dense weight. Shape: [O, I].

    Raises: MergeError if an entry of the result is not finite.
    Source: LoRA, arXiv:2106.09685, eq. 3; DoRA, arXiv:2402.09353, eq. 5.
    """
    merged_OI = weight_OI + adapter.scaling * (adapter.lora_B_OR @ adapter.lora_A_RI)
    if adapter.magnitude_O is not None:
        merged_OI *= _gain(adapter.magnitude_O, np.linalg.norm(merged_OI, axis=1))[:, None]
    if not np.isfinite(merged_OI).all():
        raise MergeError("the merged weight has entries that are not finite")
    return merged_OI


def separate_products(x_NI: Float64, weight_OI: Float64, adapter: AdapterWeights) -> Float64:
    """What the adapted layer answers, less its bias, without ever forming the merged weight. Shape: [N, O].

    x·Wᵀ + s·(x·Aᵀ)·Bᵀ, scaled by m / ‖W + s·B·A‖. The norm is expanded too, ‖w‖² + 2s·w·Δ + s²‖Δ‖² with
    w·Δ and ‖Δ‖² taken through the R side, so that an error in the sum of the merge cannot hide here.
    """
    A_RI, B_OR, s = adapter.lora_A_RI, adapter.lora_B_OR, adapter.scaling
    y_NO = x_NI @ weight_OI.T + s * ((x_NI @ A_RI.T) @ B_OR.T)
    return y_NO if adapter.magnitude_O is None else y_NO * separate_gain(weight_OI, adapter)


def separate_gain(weight_OI: Float64, adapter: AdapterWeights) -> Float64:
    """m / ‖W + s·B·A‖ by the expanded norm; ones for LoRA. Shape: [O]."""
    A_RI, B_OR, s = adapter.lora_A_RI, adapter.lora_B_OR, adapter.scaling
    if adapter.magnitude_O is None:
        return np.ones(len(weight_OI))
    cross_O = np.einsum("or,or->o", weight_OI @ A_RI.T, B_OR)
    change_O = np.einsum("or,rq,oq->o", B_OR, A_RI @ A_RI.T, B_OR, optimize=True)
    square_O = np.einsum("oi,oi->o", weight_OI, weight_OI) + 2 * s * cross_O + s**2 * change_O
    return _gain(adapter.magnitude_O, np.sqrt(np.maximum(square_O, 0)))


def _gain(magnitude_O: Float64, norm_O: Float64) -> Float64:
    """m / ‖·‖; a row of norm zero has no direction and keeps gain 1."""
    return np.divide(magnitude_O, norm_O, out=np.ones_like(norm_O), where=norm_O > 0)
