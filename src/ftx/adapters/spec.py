"""What to adapt, and how: chosen by the user, before any model is known."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from ftx.recipe import Target

Kind = Literal["lora", "dora"]


@dataclass(frozen=True)
class AdapterSpec:
    """Rank and alpha of each target; a target that is not a key stays frozen.

    ``last_blocks`` counts from the end of the network; None takes every block.
    """

    kind: Kind
    rank: Mapping[Target, int]
    alpha: Mapping[Target, float]
    last_blocks: int | None = None
    dropout: float = 0.0
    rslora: bool = False

    def scaling(self, target: Target) -> float:
        """The factor on B·A: alpha / r, or alpha / √r for rsLoRA (arXiv:2312.03732)."""
        rank = self.rank[target]
        return self.alpha[target] / (math.sqrt(rank) if self.rslora else rank)


@dataclass(frozen=True)
class Part:
    """The rows of one linear layer that one target owns, and the ranks of the adapter that serve them.

    A fused qkv has three parts; B is zero outside of (rows x ranks), so that the fused layer is one
    ordinary adapter of the summed rank.
    """

    target: Target
    rows: slice | list[int]
    ranks: slice
