"""THE merge of one weight, in float64 and numpy alone, and the separate products that prove it.

The merge adds rank by rank and input by input, in that order and without BLAS: a device then makes the very bytes that
a server made, whatever CPU and libraries each has.

Legend: N tokens, I inputs, O outputs, R ranks.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ftx.core.errors import MergeError

Float64 = NDArray[np.float64]

# Rows at a time: those of a ViT-S then stay in a core's own cache.
_ROWS = 32


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
    merged_OI = np.empty_like(weight_OI)
    for start in range(0, len(weight_OI), _ROWS):
        rows = slice(start, start + _ROWS)
        merged_OI[rows] = weight_OI[rows] + adapter.scaling * _product(adapter.lora_B_OR[rows], adapter.lora_A_RI)
    if adapter.magnitude_O is not None:
        merged_OI *= _gain(adapter.magnitude_O, _row_norms(merged_OI))[:, None]
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


def _product(B_OR: Float64, A_RI: Float64) -> Float64:
    """B·A, rank by rank. Shape: [O, I]."""
    product_OI = np.zeros((len(B_OR), A_RI.shape[1]))
    term_OI = np.empty_like(product_OI)
    for b_O, a_I in zip(B_OR.T, A_RI, strict=True):
        product_OI += np.multiply(b_O[:, None], a_I, out=term_OI)
    return product_OI


def _row_norms(matrix_OI: Float64) -> Float64:
    """Shape: [O]. ``np.linalg.norm`` adds in an order of its own, which its next version may change."""
    square_O = np.zeros(len(matrix_OI))
    for column_O in np.ascontiguousarray(matrix_OI.T):
        square_O += column_O * column_O
    return np.sqrt(square_O)


def _gain(magnitude_O: Float64, norm_O: Float64) -> Float64:
    """m / ‖·‖; a row of norm zero has no direction and keeps gain 1."""
    return np.divide(magnitude_O, norm_O, out=np.ones_like(norm_O), where=norm_O > 0)
