"""TIES (arXiv:2306.01708): several adapters of one layer become one change, by an election of signs.

Legend: O outputs, I inputs of a layer; Δ the change W' − W that an adapter makes of its weight.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ftx.adapters.merge_weight import Float64
from ftx.adapters.peft_network import FittedAdapter, flat
from ftx.merging.merge_and_prove import change

# Entries of each layer by which an election is checked.
PROOF_ENTRIES = 256


def elected(changes: Sequence[Float64 | None], shares: Sequence[float], thresholds: Sequence[float]) -> Float64:
    """TIES of one layer: trim, elect the sign, and average what agrees with it. Shape: [O, I].

    Source: arXiv:2306.01708, section 4, algorithm 1, with λ = 1; the shares are the weights of election and mean.
    """
    shape = next(Δ.shape for Δ in changes if Δ is not None)
    trimmed = [
        np.zeros(shape) if Δ is None else np.where(np.abs(Δ).astype(np.float32) >= least, Δ, 0.0)
        for Δ, least in zip(changes, thresholds, strict=True)
    ]
    sign_OI = np.sign(sum((share * Δ for share, Δ in zip(shares, trimmed, strict=True)), np.zeros(shape)))
    total_OI, weight_OI = np.zeros(shape), np.zeros(shape)
    for share, Δ in zip(shares, trimmed, strict=True):
        agrees = (np.sign(Δ) == sign_OI) & (Δ != 0)
        total_OI += np.where(agrees, share * Δ, 0.0)
        weight_OI += np.where(agrees, share, 0.0)
    return np.divide(total_OI, weight_OI, out=np.zeros(shape), where=weight_OI > 0)


def threshold(state: Mapping[str, Tensor], fitted: FittedAdapter, density: float) -> float:
    """The size that the largest ``density`` of an adapter's changes reach, over all rows that it has, as f32."""
    sizes: list[NDArray[np.float32]] = []
    for layer, adapter in fitted.layers.items():
        weight_OI = flat(state[f"{layer}.weight"])
        size_OI = np.abs(change(weight_OI, adapter, layer))
        # Rows of a fused layer that no target owns stay as they are, but for the f32 rounding of DoRA's magnitudes.
        owned_O = size_OI.max(axis=1) > 1e-6 * np.abs(weight_OI).max(axis=1)
        sizes.append(size_OI[owned_O].astype(np.float32).ravel())
    every = np.concatenate(sizes)
    if not every.size:
        return 0.0
    kept = max(round(density * every.size), 1)
    return float(np.partition(every, every.size - kept)[every.size - kept])


def election_error(
    base_OI: Float64,
    stored_OI: NDArray[np.float32],
    changes: Sequence[Float64 | None],
    shares: Sequence[float],
    thresholds: Sequence[float],
) -> float:
    """max |W' − W − rule| / max(|W'|, |W|) over random entries, by the rule for each entry by itself."""
    rng = np.random.default_rng(0)
    worst = 0.0
    for row, column in zip(*(rng.integers(0, side, PROOF_ENTRIES) for side in base_OI.shape), strict=True):
        kept = [
            (share, float(Δ[row, column]))
            for share, Δ, least in zip(shares, changes, thresholds, strict=True)
            if Δ is not None and np.float32(abs(Δ[row, column])) >= least
        ]
        vote = sum(share * value for share, value in kept)
        agreeing = [(share, value) for share, value in kept if value * vote > 0]
        weight = sum(share for share, _ in agreeing)
        rule = sum(share * value for share, value in agreeing) / weight if weight else 0.0
        stored, before = float(stored_OI[row, column]), float(base_OI[row, column])
        size = max(abs(stored), abs(before), float(np.finfo(np.float32).tiny))
        worst = max(worst, abs(stored - before - rule) / size)
    return worst
