"""What an adapter method is: one interface for its weights, its files and its layer.

Legend: O outputs, I inputs of a layer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Protocol

import numpy as np

from ftx.adapters.merge_weight import AdapterWeights, Array, Float64

if TYPE_CHECKING:
    from ftx.adapters.adapter_spec import AdapterSpec

MERGE_WITH_PEFT = "merge the adapter with peft (merge_and_unload), then train or export that model"
# The adapters of some rows of one layer, with those rows: a fused qkv has up to three.
RowAdapters = Sequence[tuple[slice, AdapterWeights]]


class AdapterMethod(Protocol):
    """One adapter method: how it is stored, merged and trained.

    ``factors`` are the tensors of a layer, by the names of the layer's parameters, with what peft puts after the
    layer's name. ``zero_factor`` starts at zero, so that a fresh adapter changes nothing; the others are drawn.
    ``peft_type`` and ``alpha_key`` are peft's words in ``adapter_config.json``, where ranks are at most ``most_rank``.
    ``whole_layers``: it adapts all targets of a fused layer alike, or none.
    """

    zero_factor: ClassVar[str]
    peft_type: ClassVar[str]
    alpha_key: ClassVar[str]
    most_rank: ClassVar[int]
    whole_layers: ClassVar[bool]

    @property
    def factors(self) -> Mapping[str, str]: ...

    def reads(self, config: Mapping[str, object]) -> bool:
        """Whether a config of its ``peft_type`` is of this method."""
        ...

    def check(self, config: Mapping[str, object], path: Path) -> None:
        """Raise AdapterError if this config does not mean a change of the weight that merges."""
        ...

    def shapes(
        self, weight: Sequence[int], rank: int, found: Mapping[str, Sequence[int]]
    ) -> dict[str, tuple[int, ...]]:
        """The factors of a layer whose weight has this shape.

        ``found`` are the shapes in a file; none for a fresh adapter.
        """
        ...

    def weight_shape(self, found: Mapping[str, Sequence[int]]) -> tuple[int, ...]:
        """The shape of a layer's weight, by the shapes of its factors; 0 for a side that they do not determine."""
        ...

    def weights(self, factors: Mapping[str, Float64], scaling: float, rank: int) -> AdapterWeights:
        """The adapter of one layer, of this rank by its config; of a convolution as [O, I·h·w]."""
        ...

    def in_one(self, weight_OI: Float64, placed: RowAdapters) -> AdapterWeights:
        """The adapters of the rows of one layer as one adapter of the layer."""
        ...

    def config(self, spec: AdapterSpec) -> dict[str, object]:
        """The keys of peft's config that only this method has."""
        ...

    def delta(self, factors: Mapping[str, Array]) -> Array:
        """Δ without its scaling, differentiable if the factors are tensors of torch. Shape: [O, I]."""
        ...


def as_matrix(factor: Float64) -> Float64:
    """A factor of a convolution as a matrix, whose further sides are inputs."""
    return np.reshape(factor, (len(factor), -1))
