"""LoKr: what is added to a weight is a Kronecker product of two small matrices.

    W' = W + s·(w1 ⊗ w2)    w1: [a, c], w2: [b, d] or a product of rank r, where W: [a·b, c·d]

Source: LoKr, arXiv:2309.14859, section 3.2 (eq. 6 and 7).

Legend: N tokens, I inputs, O outputs, R ranks; a, b, c, d as above.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import matmul
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ftx.adapters.merge_weight import Array, Float64, ordered_product
from ftx.adapters.method import Placed, Start

if TYPE_CHECKING:
    from ftx.adapters.spec import AdapterSpec

W1, W2 = "lokr_w1", "lokr_w2"
_FACTORS = (W1, f"{W1}_a", f"{W1}_b", W2, f"{W2}_a", f"{W2}_b")


@dataclass(frozen=True)
class Block:
    """The adapter of some rows of a layer. Shape: w1 [a, c], w2 [b, d]."""

    rows: slice
    w1_ac: Float64
    w2_bd: Float64
    scaling: float


@dataclass(frozen=True)
class KroneckerWeights:
    """The adapter of one linear layer: one product or, where targets of a fused layer have their own, one for each."""

    blocks: tuple[Block, ...]
    shape: tuple[int, int]
    rank: int
    parameters: int
    magnitude_O: None = None

    def delta(self, rows: slice) -> Float64:
        """s·(w1 ⊗ w2) in the rows of each block, else 0. Shape: [rows, I]."""
        delta_OI = np.zeros(self.shape)
        for block in self.blocks:
            delta_OI[block.rows] = block.scaling * kronecker(block.w1_ac, block.w2_bd)
        return delta_OI[rows]

    def separate(
        self,
        x: Array,
        array: Callable[[Float64], Array] = np.asarray,
        down: Callable[[Array, Array], Array] = matmul,
    ) -> Array:
        """s·w1·X·w2ᵀ for each input as a matrix X [c, d]. Shape: [..., I] to [..., O]."""
        outputs, _ = self.shape
        y = array(np.zeros((1, outputs))) + 0 * x[..., :1]
        for block in self.blocks:
            X = x.reshape(*x.shape[:-1], block.w1_ac.shape[1], block.w2_bd.shape[1])
            Y = array(block.scaling * block.w1_ac) @ (X @ array(block.w2_bd).T)
            y[..., block.rows] = Y.reshape(*x.shape[:-1], -1)
        return y

    def separate_gain(self, weight_OI: Float64) -> Float64:
        """Ones: there is no magnitude. Shape: [O]."""
        return np.ones(len(weight_OI))

    def directions(self) -> tuple[Float64, Float64]:
        """Orthonormal bases of what Δ reads and writes. Shape: [I, R] and [O, R]."""
        left_OK, sigma_K, right_KI = np.linalg.svd(self.delta(slice(None)), full_matrices=False)
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


def _whole(name: str, factors: Mapping[str, Array], multiply: Callable[[Array, Array], Array]) -> Array:
    """A factor that is stored as it is, or as a product of rank r."""
    return factors[name] if name in factors else multiply(factors[f"{name}_a"], factors[f"{name}_b"])


class Lokr:
    """LoKr of linear layers, as peft's LoKrConfig has it."""

    peft_type: ClassVar[str] = "LOKR"
    alpha_key: ClassVar[str] = "alpha"
    whole_layers: ClassVar[bool] = True

    @property
    def factors(self) -> Mapping[str, str]:
        """What a layer's adapter is made of; peft puts the same after the layer's name."""
        return {name: name for name in _FACTORS}

    def reads(self, config: Mapping[str, object]) -> bool:
        """Whether a config of this type is of this method: there is one."""
        return True

    def check(self, config: Mapping[str, object], path: Path) -> None:
        """Nothing in a LoKrConfig makes it another change of the weight."""

    def shapes(
        self, weight: Sequence[int], rank: int, found: Mapping[str, Sequence[int]]
    ) -> dict[str, tuple[int, ...]]:
        """The factors of a layer whose weight has this shape: split as the file has it, if that fits the weight."""
        if len(weight) != 2 or 0 in weight:  # no linear layer, or a file without its factors
            return {W1: (0, 0), W2: (0, 0)}
        split = self._split(found)
        (a, b), (c, d) = split if split is not None else map(factors_of, weight)
        if (a * b, c * d) != tuple(weight):
            (a, b), (c, d) = map(factors_of, weight)
        return self._stored(W1, (a, c), rank, found) | self._stored(W2, (b, d), rank, found)

    def weight_shape(self, found: Mapping[str, Sequence[int]]) -> tuple[int, ...]:
        """The shape of a layer's weight, by its factors."""
        split = self._split(found)
        return (0, 0) if split is None else (split[0][0] * split[0][1], split[1][0] * split[1][1])

    def _split(self, found: Mapping[str, Sequence[int]]) -> tuple[tuple[int, int], tuple[int, int]] | None:
        """(a, b) and (c, d) by the shapes in a file; None where these do not say."""
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
        if f"{name}_a" in found or f"{name}_b" in found:
            return {f"{name}_a": (shape[0], rank), f"{name}_b": (rank, shape[1])}
        return {name: shape}

    def weights(self, factors: Mapping[str, Float64], scaling: float) -> KroneckerWeights:
        """The adapter of one layer."""
        w1_ac, w2_bd = (_whole(name, factors, ordered_product) for name in (W1, W2))
        shape = (len(w1_ac) * len(w2_bd), w1_ac.shape[1] * w2_bd.shape[1])
        ranks = [factor.shape[1] for name, factor in factors.items() if name.endswith("_a")] or [min(w2_bd.shape)]
        block = Block(slice(None), w1_ac, w2_bd, scaling)
        return KroneckerWeights((block,), shape, max(ranks), sum(factor.size for factor in factors.values()))

    def in_one(self, weight_OI: Float64, placed: Placed) -> KroneckerWeights:
        """The products of the rows of one layer, side by side."""
        parts = [(rows, one) for rows, one in placed if isinstance(one, KroneckerWeights)]
        blocks = [Block(rows, one.w1_ac, one.w2_bd, one.scaling) for rows, whole in parts for one in whole.blocks]
        outputs, inputs = weight_OI.shape
        rank, parameters = max(one.rank for _, one in parts), sum(one.parameters for _, one in parts)
        return KroneckerWeights(tuple(blocks), (outputs, inputs), rank, parameters)

    def config(self, spec: AdapterSpec) -> dict[str, object]:
        """What peft's LoKrConfig says beside ranks, alphas and layers."""
        return {
            "decompose_both": False,
            "decompose_factor": -1,
            "rank_dropout": 0.0,
            "module_dropout": 0.0,
            "use_effective_conv2d": False,
            "init_weights": True,
        }

    def start(self, outputs: int, inputs: int, rank: int) -> dict[str, Start]:
        """w1 is zero, w2 drawn as a linear layer's weight is; w2 is a product if that has fewer numbers, as in peft."""
        (a, b), (c, d) = factors_of(outputs), factors_of(inputs)
        if rank < max(b, d) / 2:
            second = {f"{W2}_a": Start((b, rank)), f"{W2}_b": Start((rank, d))}
        else:
            second = {W2: Start((b, d))}
        return {W1: Start((a, c), zero=True), **second}

    def delta(self, factors: Mapping[str, Array]) -> Array:
        """w1 ⊗ w2 of a layer's factors. Shape: [O, I]."""
        return kronecker(*(_whole(name, factors, matmul) for name in (W1, W2)))
