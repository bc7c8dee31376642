"""A linear layer with an adapter, whatever the method: what trains, and the weight that it computes with.

Legend: I inputs, O outputs of the layer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from ftx.adapters.adapter_spec import TargetPart
from ftx.adapters.method import AdapterMethod
from ftx.core.errors import AdapterError

# s: one for a layer, or one for each rank [R] if the targets of a fused layer have their own alpha / rank.
Scaling = float | Tensor


class AdapterLayer(nn.Module):
    """Computes y = x·(W + s·Δ)ᵀ + b, where the method gives Δ by the factors.

    ``weight`` and ``bias`` of the base layer keep their names, frozen, next to the factors that train. Autograd forms
    the dense gradient of W', which costs a third product; a method with a faster way has a class of its own.
    """

    def __init__(
        self,
        base: nn.Linear,
        parts: tuple[TargetPart, ...],
        *,
        method: AdapterMethod,
        rank: int,
        scaling: Scaling,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.in_features, self.out_features = base.in_features, base.out_features
        self.weight = base.weight.requires_grad_(False)
        self.bias = None if base.bias is None else base.bias.requires_grad_(False)  # pyright: ignore[reportUnnecessaryComparison]
        self.parts, self.method, self.rank = parts, method, rank
        for part in parts:  # a list would be copied to a GPU in each step, which waits for it
            if not isinstance(part.rows, slice):
                self.register_buffer(f"rows_{part.target}", torch.tensor(part.rows), persistent=False)
        self.scaling: Scaling
        if isinstance(scaling, Tensor):  # a buffer goes where the layer goes
            self.register_buffer("scaling", scaling.to(self.weight), persistent=False)
        else:
            self.scaling = scaling
        for name, shape in method.shapes(self.weight.shape, rank, {}).items():
            self.register_parameter(name, nn.Parameter(self._fresh(name, shape, generator)))
        # Whether the module around this layer adds to its output in place.
        self.added_to_in_place = False

    def _fresh(self, name: str, shape: Sequence[int], generator: torch.Generator) -> Tensor:
        """A factor of an adapter that changes nothing: zero, or drawn with bound 1/√columns.

        Source: the uniform draw of LoRA's authors' code, as the weight of a linear layer is drawn.
        """
        factor = torch.zeros(*shape, dtype=self.weight.dtype)
        if name != self.method.zero_factor:
            bound = 1 / math.sqrt(shape[1])
            factor.uniform_(-bound, bound, generator=generator)
        return factor.to(self.weight.device)

    @property
    def factors(self) -> dict[str, nn.Parameter]:
        """What trains, by the names of the method."""
        return {name: one for name in self.method.factors if (one := self._parameters.get(name)) is not None}

    @property
    def placed_parts(self) -> tuple[TargetPart, ...]:
        """The parts, with listed rows on the layer's device."""
        return tuple(
            part if isinstance(part.rows, slice) else replace(part, rows=self.get_buffer(f"rows_{part.target}"))
            for part in self.parts
        )

    @property
    def trainable_parameters(self) -> int:
        """How many numbers train."""
        return sum(factor.numel() for factor in self.factors.values())

    @property
    def faster(self) -> tuple[nn.Parameter, ...]:
        """The factors whose learning rate ``train.lora_plus`` multiplies."""
        return ()

    @property
    def undecayed(self) -> tuple[nn.Parameter, ...]:
        """The factors that weight decay must not touch."""
        return ()

    def merged_weight(self) -> Tensor:
        """The weight that this layer computes with, with gradients to the factors. Shape: [O, I]."""
        return self.weight + self.scaling * self.method.delta(self.factors)

    def forward(self, x: Tensor) -> Tensor:
        """y = x·W'ᵀ + b, in autocast's dtype if that is on. Shape: [..., I] to [..., O]."""
        device = x.device.type
        compute = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
        with torch.autocast(device, enabled=False):  # it would round the factors before they are summed into W'
            bias = None if self.bias is None else self.bias.to(compute)
            return linear(x.to(compute), self.merged_weight().to(compute), bias)

    def untrained_targets(self) -> list[str] | None:
        """After a backward: the targets that no gradient reaches; None if the layer was not called at all."""
        gradients = [factor.grad for factor in self.factors.values()]
        if any(gradient is None for gradient in gradients):
            return None
        reached = any(gradient is not None and bool(gradient.norm() > 0) for gradient in gradients)
        return [] if reached else [part.target for part in self.parts]

    def stored(self) -> tuple[dict[str, Tensor], int, float]:
        """The factors as the file has them, with their rank and scaling."""
        assert not isinstance(self.scaling, Tensor)
        return dict(self.factors), self.rank, self.scaling

    @torch.no_grad()
    def load(self, factors: Mapping[str, Tensor], scaling: float) -> None:
        """Fill the factors from a file.

        Raises: AdapterError if the file has others.
        """
        if {name: factor.shape for name, factor in factors.items()} != {
            name: factor.shape for name, factor in self.factors.items()
        }:
            found = ", ".join(f"{name} {list(factor.shape)}" for name, factor in sorted(factors.items())) or "none"
            raise AdapterError(
                "the adapter must be of this run",
                found=f"factors {found}",
                fix="restore trained/ from a copy of the run, or train again",
            )
        for name, factor in self.factors.items():
            factor.copy_(factors[name])
        if isinstance(self.scaling, Tensor):
            self.scaling.fill_(scaling)


def layer_scaling(parts: tuple[TargetPart, ...], each: Sequence[float]) -> Scaling:
    """One number if all parts of a layer are scaled alike, else one for each rank [R]."""
    if len(set(each)) == 1:
        return each[0]
    ranks = torch.tensor([part.ranks.stop - part.ranks.start for part in parts])
    return torch.tensor(each).repeat_interleave(ranks)
