"""The merge of one weight, in float64 and numpy, and the unmerged forward that proves it.

The merge adds in an order of its own and without BLAS: a device then computes the same bytes as a server, whatever CPU
and libraries each has.

Legend: N tokens, I inputs, O outputs, R ranks; Δ what an adapter adds to a weight W.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ftx.core.errors import MergeError

Float64 = NDArray[np.float64]
# An array of numpy, or a tensor of torch: both have the operators that an unmerged forward needs.
Array = Any

# Rows at a time: those of a ViT-S then stay in a core's own cache.
_ROWS = 32


class AdapterWeights(Protocol):
    """The adapter of one linear layer: W' = W + Δ or, with a magnitude m, W' = m · (W + Δ) / ‖W + Δ‖, row by row."""

    @property
    def magnitude_O(self) -> Float64 | None: ...  # noqa: N802 - the shape is part of the name

    @property
    def shape(self) -> tuple[int, int]:
        """Outputs and inputs of the layer."""
        ...

    @property
    def rank(self) -> int: ...

    @property
    def parameters(self) -> int:
        """How many numbers the adapter has, without the zeros of a fused layer."""
        ...

    def delta(self, rows: slice) -> Float64:
        """Rows of Δ, added in a fixed order. Shape: [rows, I]."""
        ...

    def separate(
        self, x: Array, array: Callable[[Float64], Array] = ..., down: Callable[[Array, Array], Array] = ...
    ) -> Array:
        """x·Δᵀ by the factors of Δ, which is never formed.

        ``array`` turns a factor into the kind of array that x is; ``down`` multiplies x by a first factor [R, I], as a
        convolution does in its own way. Shape: [..., I] to [..., O].
        """
        ...

    def separate_gain(self, weight_OI: Float64) -> Float64:
        """m / ‖W + Δ‖ by the expanded norm, which never forms W + Δ; ones without a magnitude. Shape: [O]."""
        ...

    def directions(self) -> tuple[Float64, Float64]:
        """Orthonormal bases of what Δ reads and writes, without directions of no weight. Shape: [I, R] and [O, R]."""
        ...


def merged_weight(weight_OI: Float64, adapter: AdapterWeights) -> Float64:
    """Fold the adapter into one dense weight. Shape: [O, I].

    Raises: MergeError if an entry of the result is not finite.
    Source: LoRA, arXiv:2106.09685, eq. 3; DoRA, arXiv:2402.09353, eq. 5.
    """
    merged_OI = summed_weight(weight_OI, adapter)
    if adapter.magnitude_O is not None:
        merged_OI *= gain(adapter.magnitude_O, _row_norms(merged_OI))[:, None]
    if not np.isfinite(merged_OI).all():
        raise MergeError(
            "the merged weight must be finite",
            found=f"{(~np.isfinite(merged_OI)).sum():,} of {merged_OI.size:,} entries are not",
            fix="train the adapter again, with a lower learning rate",
        )
    return merged_OI


def summed_weight(weight_OI: Float64, adapter: AdapterWeights) -> Float64:
    """W + Δ. Shape: [O, I]."""
    summed_OI = np.empty_like(weight_OI)
    for start in range(0, len(weight_OI), _ROWS):
        rows = slice(start, start + _ROWS)
        summed_OI[rows] = weight_OI[rows] + adapter.delta(rows)
    return summed_OI


def unmerged_forward(x_NI: Float64, weight_OI: Float64, adapter: AdapterWeights) -> Float64:
    """What the adapted layer computes, less its bias, without ever forming the merged weight. Shape: [N, O].

    An error in the sum of the merge cannot hide here: neither W + Δ nor its norm is computed from the sum.
    """
    return (x_NI @ weight_OI.T + adapter.separate(x_NI)) * adapter.separate_gain(weight_OI)


def linear(x: Array, factor_RI: Array) -> Array:
    """x·Aᵀ. Shape: [..., R]."""
    return x @ factor_RI.T


def ordered_product(B_OR: Float64, A_RI: Float64) -> Float64:
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


def gain(magnitude_O: Float64, norm_O: Float64) -> Float64:
    """m / ‖·‖; a row of norm zero has no direction and keeps gain 1. Shape: [O]."""
    return np.divide(magnitude_O, norm_O, out=np.ones_like(norm_O), where=norm_O > 0)
