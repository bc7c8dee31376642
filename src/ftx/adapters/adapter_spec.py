"""What to adapt, and how: chosen by the user, before any model is known."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from ftx.recipe.adapter_targets import Blocks, Role
from ftx.recipe.method_defaults import AdapterName
from ftx.recipe.sections import AdapterInit


@dataclass(frozen=True)
class AdapterSpec:
    """Rank and alpha of each target; a target that is not a key stays frozen.

    ``layers`` is a regular expression of layers' names in the place of targets, whose rank is that of "layer".
    """

    kind: AdapterName
    rank: Mapping[Role, int]
    alpha: Mapping[Role, float]
    blocks: Blocks = "all"
    layers: str | None = None
    init: AdapterInit = "zero"
    dropout: float = 0.0
    rslora: bool = False

    def scaling(self, target: Role) -> float:
        """The factor on B·A: alpha / r, or alpha / √r for rsLoRA (arXiv:2312.03732)."""
        rank = self.rank[target]
        return self.alpha[target] / (math.sqrt(rank) if self.rslora else rank)


@dataclass(frozen=True)
class TargetPart:
    """The rows of one linear layer that one target owns, and the ranks of the adapter that serve them.

    A fused qkv has three parts; B is zero outside of (rows x ranks), so that the fused layer is one
    ordinary adapter of the summed rank.
    """

    target: Role
    rows: slice | list[int] | Tensor
    ranks: slice
