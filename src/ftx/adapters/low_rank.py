"""LoRA and DoRA, which is LoRA with a magnitude for each output: their weights and files, in numpy.

    W' = g · (W + s·B·A)    g = m / ‖W + s·B·A‖, row by row, for DoRA; 1 for LoRA

Source: LoRA, arXiv:2106.09685, eq. 3; DoRA, arXiv:2402.09353, eq. 5.

Legend: N tokens, I inputs, O outputs, R ranks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ftx.adapters.merge_weight import Array, Float64, gain, linear, ordered_product
from ftx.adapters.method import MERGE_WITH_PEFT, RowAdapters, as_matrix
from ftx.core.errors import AdapterError, shown
from ftx.core.untrusted_input import MOST_WIDTH

if TYPE_CHECKING:
    from ftx.adapters.adapter_spec import AdapterSpec

LORA_A, LORA_B, MAGNITUDE = "lora_A", "lora_B", "lora_magnitude_vector"
# Keys by which peft makes another adapter of it than W + s·B·A, or trains more than that.
_OTHER_KINDS = (
    "fan_in_fan_out",
    "lora_bias",
    "use_qalora",
    "use_bdlora",
    "target_parameters",
    "trainable_token_indices",
    "layer_replication",
    "alora_invocation_tokens",
    "arrow_config",
    "monteclora_config",
    "velora_config",
    "kasa_config",
)
# Ways to begin that leave the base as it was; pissa, olora, corda, loftq and lora_ga take something off it first, which
# the file does not contain.
_BASE_UNTOUCHED = (True, False, None, "gaussian", "eva", "orthogonal", "mica")


@dataclass(frozen=True)
class LowRankWeights:
    """The adapter of one linear layer. Shape: A [R, I], B [O, R], magnitude [O] for DoRA, None for LoRA."""

    lora_A_RI: Float64
    lora_B_OR: Float64
    scaling: float
    magnitude_O: Float64 | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Outputs and inputs of the layer."""
        return len(self.lora_B_OR), self.lora_A_RI.shape[1]

    @property
    def rank(self) -> int:
        """Of a fused layer the sum of its targets' ranks."""
        return len(self.lora_A_RI)

    @property
    def parameters(self) -> int:
        """Entries of A and the magnitude, and of B those that are not zero."""
        magnitude = 0 if self.magnitude_O is None else self.magnitude_O.size
        return self.lora_A_RI.size + int(np.count_nonzero(self.lora_B_OR)) + magnitude

    def delta(self, rows: slice) -> Float64:
        """s·B·A, rank by rank. Shape: [rows, I]."""
        return self.scaling * ordered_product(self.lora_B_OR[rows], self.lora_A_RI)

    def separate(
        self,
        x: Array,
        array: Callable[[Float64], Array] = np.asarray,
        down: Callable[[Array, Array], Array] = linear,
    ) -> Array:
        """s·(x·Aᵀ)·Bᵀ. Shape: [..., I] to [..., O]."""
        return down(x, array(self.lora_A_RI)) @ array(self.scaling * self.lora_B_OR).T

    def separate_gain(self, weight_OI: Float64) -> Float64:
        """m / ‖W + s·B·A‖, of ‖w‖² + 2s·w·Δ + s²‖Δ‖² with w·Δ and ‖Δ‖² computed on the R side. Shape: [O]."""
        A_RI, B_OR, s = self.lora_A_RI, self.lora_B_OR, self.scaling
        if self.magnitude_O is None:
            return np.ones(len(weight_OI))
        cross_O = np.einsum("or,or->o", weight_OI @ A_RI.T, B_OR)
        change_O = np.einsum("or,rq,oq->o", B_OR, A_RI @ A_RI.T, B_OR, optimize=True)
        square_O = np.einsum("oi,oi->o", weight_OI, weight_OI) + 2 * s * cross_O + s**2 * change_O
        return gain(self.magnitude_O, np.sqrt(np.maximum(square_O, 0)))

    def directions(self) -> tuple[Float64, Float64]:
        """Orthonormal bases of what B·A reads and writes. Shape: [I, R] and [O, R]."""
        Q_OR, upper_RR = np.linalg.qr(self.lora_B_OR)
        Q_IR, lower_RR = np.linalg.qr(self.lora_A_RI.T)
        left_RR, sigma_R, right_RR = np.linalg.svd(upper_RR @ lower_RR.T)
        kept = sigma_R > 1e-6 * max(sigma_R.max(initial=0.0), np.finfo(float).tiny)
        return Q_IR @ right_RR[: len(sigma_R)][kept].T, Q_OR @ left_RR[:, : len(sigma_R)][:, kept]


@dataclass(frozen=True)
class LowRank:
    """LoRA, or with ``dora`` DoRA."""

    dora: bool
    peft_type: ClassVar[str] = "LORA"
    alpha_key: ClassVar[str] = "lora_alpha"
    most_rank: ClassVar[int] = MOST_WIDTH
    whole_layers: ClassVar[bool] = False
    zero_factor: ClassVar[str] = LORA_B  # LoRA, arXiv:2106.09685, section 4.1

    @property
    def factors(self) -> Mapping[str, str]:
        """What a layer's adapter is made of, and what peft puts after the layer's name."""
        magnitude = {MAGNITUDE: MAGNITUDE} if self.dora else {}
        return {LORA_A: f"{LORA_A}.weight", LORA_B: f"{LORA_B}.weight"} | magnitude

    def reads(self, config: Mapping[str, object]) -> bool:
        """Whether peft's config is of this one of the two."""
        return (config.get("use_dora") is True) == self.dora

    def check(self, config: Mapping[str, object], path: Path) -> None:
        """Raise AdapterError if the adapter is more than W + s·B·A with an optional magnitude."""
        if other := [key for key in _OTHER_KINDS if config.get(key)]:
            raise AdapterError(
                "the adapter must be of a kind that ftx can merge",
                where=path,
                found=", ".join(other),
                fix=MERGE_WITH_PEFT,
            )
        start = config.get("init_lora_weights")
        if start not in _BASE_UNTOUCHED:
            raise AdapterError(
                "the adapter must be for an unchanged base",
                where=path,
                found=f"init_lora_weights {shown(start)}",
                fix="convert it with peft when you save it: "
                "save_pretrained(..., path_initial_model_for_weight_conversion=...)",
            )

    def shapes(
        self, weight: Sequence[int], rank: int, found: Mapping[str, Sequence[int]]
    ) -> dict[str, tuple[int, ...]]:
        """The factors of a layer whose weight has this shape, by their names."""
        outputs, *inputs = weight
        ones = (1,) * (len(inputs) - 1)  # those of a convolution
        magnitude = {MAGNITUDE: (1, outputs, *ones) if ones else (outputs,)} if self.dora else {}
        return {LORA_A: (rank, *inputs), LORA_B: (outputs, rank, *ones)} | magnitude

    def weight_shape(self, found: Mapping[str, Sequence[int]]) -> tuple[int, ...]:
        """The shape of a layer's weight, as its factors have it."""
        return (*(tuple(found.get(LORA_B, ()))[:1] or (0,)), *(tuple(found.get(LORA_A, ()))[1:] or (0,)))

    def weights(self, factors: Mapping[str, Float64], scaling: float, rank: int) -> LowRankWeights:
        """The adapter of one layer; of a convolution as [O, I·h·w]."""
        magnitude = factors.get(MAGNITUDE)
        flat_O = None if magnitude is None else magnitude.reshape(-1)
        return LowRankWeights(as_matrix(factors[LORA_A]), as_matrix(factors[LORA_B]), scaling, flat_O)

    def in_one(self, weight_OI: Float64, placed: RowAdapters) -> LowRankWeights:
        """One adapter of the summed rank, whose B is zero outside of each adapter's rows and ranks."""
        parts = [(rows, one) for rows, one in placed if isinstance(one, LowRankWeights)]
        B_OR = np.zeros((len(weight_OI), sum(one.rank for _, one in parts)))
        # A row that no adapter has keeps the magnitude that it has in the base.
        magnitude_O = np.linalg.norm(weight_OI, axis=1)
        start = 0
        for rows, one in parts:
            stop = start + one.rank
            B_OR[rows, start:stop] = one.scaling * one.lora_B_OR
            if one.magnitude_O is not None:
                magnitude_O[rows] = one.magnitude_O
            start = stop
        A_RI = np.concatenate([one.lora_A_RI for _, one in parts])
        return LowRankWeights(A_RI, B_OR, 1.0, magnitude_O if self.dora else None)

    def config(self, spec: AdapterSpec) -> dict[str, object]:
        """The keys of peft's LoraConfig, without those of ranks, alphas and layers."""
        return {
            "lora_dropout": spec.dropout,
            "bias": "none",
            "fan_in_fan_out": False,
            "use_dora": self.dora,
            "use_rslora": spec.rslora,
            "init_lora_weights": True,
        }

    def delta(self, factors: Mapping[str, Array]) -> Array:
        """B·A, without the gain of DoRA. Shape: [O, I]."""
        return factors[LORA_B] @ factors[LORA_A]
