"""LoKr: what is added to a weight is a Kronecker product of two small matrices.

    W' = W + s·(w1 ⊗ w2)    w1: [a, c], w2: [b, d], each as it is or as a product of rank r, where W: [a·b, c·d]

Source: LoKr, arXiv:2309.14859, section 3.2 (eq. 6 and 7).

Legend: N tokens, I inputs, O outputs, R ranks; a, b, c, d as above.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import matmul
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from ftx.adapters.merge_weight import Array, Float64, linear, ordered_product
from ftx.adapters.method import RowAdapters
from ftx.core.errors import AdapterError
from ftx.core.untrusted_input import MOST_WIDTH

if TYPE_CHECKING:
    from ftx.adapters.adapter_spec import AdapterSpec

W1, W2 = "lokr_w1", "lokr_w2"
_FACTORS = (W1, f"{W1}_a", f"{W1}_b", W2, f"{W2}_a", f"{W2}_b")
# A matrix as it is, or two factors of it. They are multiplied only where that is needed: a file of some kilobytes may
# describe a product that does not fit into memory.
Matrix = tuple[Float64, ...]
RowIndex = NDArray[np.int64]


@dataclass(frozen=True)
class Block:
    """The adapter of some rows of a layer: w1 [a, c] and w2 [b, d], which are stored as they are or as products."""

    rows: slice
    w1: Matrix
    w2: Matrix
    scaling: float

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and inputs."""
        (a, c), (b, d) = ((len(one[0]), one[-1].shape[1]) for one in (self.w1, self.w2))
        return a * b, c * d

    def delta(self, rows_O: RowIndex) -> Float64:
        """Some rows of s·(w1 ⊗ w2), by their numbers in the block. Shape: [rows, I]."""
        of_w1, of_w2 = np.divmod(rows_O, len(self.w2[0]))
        w1_nc, w2_nd = _rows(self.w1, of_w1), _rows(self.w2, of_w2)
        return self.scaling * (w1_nc[:, :, None] * w2_nd[:, None, :]).reshape(len(rows_O), self.shape[1])


def _rows(matrix: Matrix, numbers: RowIndex) -> Float64:
    """Some rows of a matrix, a product added rank by rank. Shape: [rows, columns]."""
    first, *rest = matrix
    return ordered_product(first[numbers], rest[0]) if rest else first[numbers]


@dataclass(frozen=True)
class KroneckerWeights:
    """The adapter of one linear layer: one product or, if targets of a fused layer have their own, one for each."""

    blocks: tuple[Block, ...]
    shape: tuple[int, int]
    rank: int
    parameters: int
    magnitude_O: None = None

    def delta(self, rows: slice) -> Float64:
        """s·(w1 ⊗ w2) in the rows of each block, else 0. Shape: [rows, I]."""
        outputs, inputs = self.shape
        index_O = np.arange(outputs)[rows]
        delta_OI = np.zeros((len(index_O), inputs))
        for block in self.blocks:
            start, stop, _ = block.rows.indices(outputs)
            inside_O = (index_O >= start) & (index_O < stop)
            delta_OI[inside_O] = block.delta(index_O[inside_O] - start)
        return delta_OI

    def separate(
        self,
        x: Array,
        array: Callable[[Float64], Array] = np.asarray,
        down: Callable[[Array, Array], Array] = linear,
    ) -> Array:
        """s·w1·X·w2ᵀ for each input as a matrix X [c, d], factor by factor. Shape: [..., I] to [..., O]."""
        outputs, _ = self.shape
        y = array(np.zeros((1, outputs))) + 0 * x[..., :1]
        for block in self.blocks:
            c, d = block.w1[-1].shape[1], block.w2[-1].shape[1]
            part = block.scaling * x.reshape(*x.shape[:-1], c, d)
            for factor in reversed(block.w2):
                part = part @ array(factor).T
            for factor in reversed(block.w1):
                part = array(factor) @ part
            y[..., block.rows] = part.reshape(*x.shape[:-1], -1)
        return y

    def separate_gain(self, weight_OI: Float64) -> Float64:
        """Ones: there is no magnitude. Shape: [O]."""
        return np.ones(len(weight_OI))

    def directions(self) -> tuple[Float64, Float64]:
        """Orthonormal bases of what Δ reads and writes. Shape: [I, R] and [O, R]."""
        left_OK: Float64
        right_KI: Float64
        block, *others = self.blocks
        if others:
            left_OK, sigma_K, right_KI = np.linalg.svd(self.delta(slice(None)), full_matrices=False)
        else:  # singular vectors of a Kronecker product are the products of those of its parts
            (U1, sigma_1, V1), (U2, sigma_2, V2) = (
                np.linalg.svd(reduce(matmul, one), full_matrices=False) for one in (block.w1, block.w2)
            )
            left_OK, sigma_K, right_KI = kronecker(U1, U2), np.kron(sigma_1, sigma_2), kronecker(V1, V2)
        kept = sigma_K > 1e-6 * max(sigma_K.max(initial=0.0), np.finfo(float).tiny)
        return right_KI[kept].T, left_OK[:, kept]


def kronecker(w1_ac: Array, w2_bd: Array) -> Array:
    """w1 ⊗ w2, of numpy's arrays or torch's tensors. Shape: [a·b, c·d]."""
    (a, c), (b, d) = w1_ac.shape, w2_bd.shape
    return (w1_ac[:, None, :, None] * w2_bd[None, :, None, :]).reshape(a * b, c * d)


def factors_of(number: int) -> tuple[int, int]:
    """The two factors of a number that are closest to its root, the smaller one first: as peft splits a side."""
    smaller = next(one for one in range(math.isqrt(number), 0, -1) if number % one == 0)
    return smaller, number // smaller


def _matrix(name: str, factors: Mapping[str, Array]) -> tuple[Array, ...]:
    return (factors[name],) if name in factors else (factors[f"{name}_a"], factors[f"{name}_b"])


class Lokr:
    """LoKr of linear layers, as peft's LoKrConfig has it."""

    peft_type: ClassVar[str] = "LOKR"
    alpha_key: ClassVar[str] = "alpha"
    most_rank: ClassVar[int] = 1 << 53  # peft writes any: above what the factors need, both are stored as they are
    whole_layers: ClassVar[bool] = True
    zero_factor: ClassVar[str] = W1

    @property
    def factors(self) -> Mapping[str, str]:
        """What a layer's adapter is made of; peft puts the same after the layer's name."""
        return {name: name for name in _FACTORS}

    def reads(self, config: Mapping[str, object]) -> bool:
        """Whether a config of this type is of this method: there is one."""
        return True

    def check(self, config: Mapping[str, object], path: Path) -> None:
        """Raise AdapterError for a scaling that peft's LoKr does not have."""
        if config.get("use_rslora"):
            raise AdapterError(
                "use_rslora must be false for LoKr, which scales by alpha / rank",
                where=path,
                found="true",
                fix="remove the key use_rslora",
            )

    def shapes(
        self, weight: Sequence[int], rank: int, found: Mapping[str, Sequence[int]]
    ) -> dict[str, tuple[int, ...]]:
        """The factors of a layer whose weight has this shape: split as the file has it, if that fits the weight.

        A fresh w2 is a product if r < max(b, d) / 2, as in peft.
        Raises: AdapterError for the weight of a convolution.
        """
        if len(weight) != 2:
            raise AdapterError(
                "a LoKr adapter must be on linear layers only",
                found=f"a weight of shape {list(weight)}",
                fix="merge the adapter with peft: merge_and_unload()",
            )
        split = self._split(found)
        if split is None or self.weight_shape(found) != tuple(weight):
            split = factors_of(max(weight[0], 1)), factors_of(max(weight[1], 1))
        (a, b), (c, d) = split
        if not found and rank < max(b, d) / 2:  # as peft begins
            found = {f"{W2}_a": ()}
        return self._stored(W1, (a, c), rank, found) | self._stored(W2, (b, d), rank, found)

    def weight_shape(self, found: Mapping[str, Sequence[int]]) -> tuple[int, ...]:
        """The shape of a layer's weight, by its factors."""
        split = self._split(found)
        return (0, 0) if split is None else (split[0][0] * split[0][1], split[1][0] * split[1][1])

    def _split(self, found: Mapping[str, Sequence[int]]) -> tuple[tuple[int, int], tuple[int, int]] | None:
        """(a, b) and (c, d) by the shapes in a file; None if they do not determine it."""
        sides: list[tuple[int, int]] = []
        for name in (W1, W2):
            left, right = found.get(name, found.get(f"{name}_a", ())), found.get(name, found.get(f"{name}_b", ()))
            if len(left) != 2 or len(right) != 2:
                return None
            sides.append((left[0], right[1]))
        (a, c), (b, d) = sides
        return (a, b), (c, d)

    def _stored(
        self, name: str, shape: tuple[int, int], rank: int, found: Mapping[str, Sequence[int]]
    ) -> dict[str, tuple[int, ...]]:
        if rank <= MOST_WIDTH and (f"{name}_a" in found or f"{name}_b" in found):
            return {f"{name}_a": (shape[0], rank), f"{name}_b": (rank, shape[1])}
        return {name: shape}

    def weights(self, factors: Mapping[str, Float64], scaling: float, rank: int) -> KroneckerWeights:
        """The adapter of one layer, its products not yet multiplied."""
        block = Block(slice(None), _matrix(W1, factors), _matrix(W2, factors), scaling)
        return KroneckerWeights((block,), block.shape, rank, sum(factor.size for factor in factors.values()))

    def in_one(self, weight_OI: Float64, placed: RowAdapters) -> KroneckerWeights:
        """The products of the rows of one layer, side by side."""
        parts = [(rows, one) for rows, one in placed if isinstance(one, KroneckerWeights)]
        blocks = [Block(rows, one.w1, one.w2, one.scaling) for rows, whole in parts for one in whole.blocks]
        outputs, inputs = weight_OI.shape
        rank, parameters = max(one.rank for _, one in parts), sum(one.parameters for _, one in parts)
        return KroneckerWeights(tuple(blocks), (outputs, inputs), rank, parameters)

    def config(self, spec: AdapterSpec) -> dict[str, object]:
        """The keys of peft's LoKrConfig, without those of ranks, alphas and layers."""
        return {
            "decompose_both": False,
            "decompose_factor": -1,
            "rank_dropout": 0.0,
            "module_dropout": 0.0,
            "use_effective_conv2d": False,
            "init_weights": True,
        }

    def delta(self, factors: Mapping[str, Array]) -> Array:
        """w1 ⊗ w2 of a layer's factors. Shape: [O, I]."""
        return kronecker(*(reduce(matmul, _matrix(name, factors)) for name in (W1, W2)))
