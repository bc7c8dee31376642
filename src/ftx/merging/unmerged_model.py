"""Adapters laid beside a network that keeps its own weights: what a merge of it must answer.

Legend: O outputs, I inputs, R ranks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from ftx.adapters.kernel import AdapterWeights, separate_gain
from ftx.backbones.families import expose

Shares = Sequence[tuple[float, AdapterWeights | None]]


@contextmanager
def beside(module: nn.Module, layers: Mapping[str, Shares]) -> Iterator[nn.Module]:
    """Let each layer answer Σ share · gain · (W·x + s·B·(A·x)) + b, as separate products, until the block ends.

    An adapter of None answers W·x. The merged weight is never formed.
    """
    expose(module)  # else some families read the weight of qkv without calling it
    hooks = [
        module.get_submodule(name).register_forward_hook(_products(module.get_submodule(name), shares))
        for name, shares in layers.items()
    ]
    try:
        yield module
    finally:
        for hook in hooks:
            hook.remove()


class _products:  # noqa: N801 - a function that keeps its factors
    """The hook of one linear layer or convolution."""

    def __init__(self, layer: nn.Module, shares: Shares) -> None:
        weight = layer.get_parameter("weight")
        weight_OI = weight.detach().double().flatten(1).numpy()
        self.left = sum(share for share, adapter in shares if adapter is None)
        self.factors: list[tuple[Tensor, Tensor, Tensor]] = []
        for share, adapter in shares:
            if adapter is not None:
                gain_O = share * separate_gain(weight_OI, adapter)
                scaled_OR = adapter.scaling * adapter.lora_B_OR
                down = torch.from_numpy(adapter.lora_A_RI).to(weight).view(-1, *weight.shape[1:])
                self.factors.append((_like(gain_O, weight), _like(scaled_OR, weight), down))

    def __call__(self, layer: nn.Module, inputs: tuple[Tensor], _output: Tensor) -> Tensor:
        (x,) = inputs
        weight, bias = layer.get_parameter("weight"), getattr(layer, "bias", None)
        convolved = isinstance(layer, nn.Conv1d | nn.Conv2d)

        def product(kernel: Tensor) -> Tensor:
            """Channels last, whatever the layer is."""
            if not convolved:
                return linear(x, kernel)
            return layer._conv_forward(x, kernel, None).movedim(1, -1)  # pyright: ignore[reportCallIssue, reportPrivateUsage]

        y = product(weight)
        total = y * self.left
        for gain_O, scaled_OR, down in self.factors:
            total = total + gain_O * (y + linear(product(down), scaled_OR))
        if bias is not None:
            total = total + bias
        return total.movedim(-1, 1) if convolved else total


def _like(values: np.ndarray, weight: Tensor) -> Tensor:
    return torch.from_numpy(values).to(weight)
