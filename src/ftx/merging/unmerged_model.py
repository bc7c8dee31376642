"""The unmerged forward: a network keeps its own weights, and adapters are added to the outputs of its layers.

Legend: O outputs, I inputs, R ranks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.functional import conv1d, conv2d, linear

from ftx.adapters.merge_weight import AdapterWeights, Float64
from ftx.adapters.peft_network import flat
from ftx.backbones.layer_roles import expose

WeightedAdapters = Sequence[tuple[float, AdapterWeights | None]]


@contextmanager
def unmerged_adapters(module: nn.Module, layers: Mapping[str, WeightedAdapters]) -> Iterator[nn.Module]:
    """Let each layer compute Σ share · gain · (W·x + s·B·(A·x)) + b until the block ends.

    An adapter of None computes W·x. The merged weight is never formed.
    """
    expose(module)  # else some families read the weight of qkv without calling it
    hooks = [
        layer.register_forward_hook(_hook(layer, adapters))
        for layer, adapters in ((module.get_submodule(name), adapters) for name, adapters in layers.items())
    ]
    try:
        yield module
    finally:
        for hook in hooks:
            hook.remove()


def _hook(layer: nn.Module, adapters: WeightedAdapters) -> Callable[[nn.Module, tuple[Tensor], Tensor], Tensor]:
    """The forward hook of one linear layer or convolution, whose output replaces the layer's own."""
    weight, bias = layer.get_parameter("weight"), getattr(layer, "bias", None)
    weight_OI = flat(weight)
    unadapted = sum(share for share, adapter in adapters if adapter is None)

    def tensor(array: Float64) -> Tensor:
        return torch.from_numpy(array).to(weight)

    def down(x: Tensor, factor_RI: Tensor) -> Tensor:
        return _product(layer, x, factor_RI.view(-1, *weight.shape[1:]))

    adapted = [(one, tensor(share * one.separate_gain(weight_OI))) for share, one in adapters if one is not None]

    def forward(_layer: nn.Module, inputs: tuple[Tensor], _output: Tensor) -> Tensor:
        (x,) = inputs
        y = _product(layer, x, weight)
        total = y * unadapted
        for adapter, gain_O in adapted:
            total = total + gain_O * (y + adapter.separate(x, tensor, down))
        if bias is not None:
            total = total + bias
        return total.movedim(-1, 1) if isinstance(layer, nn.Conv1d | nn.Conv2d) else total

    return forward


def _product(layer: nn.Module, x: Tensor, weight: Tensor) -> Tensor:
    """The output of a layer with another weight and no bias, channels last."""
    if not isinstance(layer, nn.Conv1d | nn.Conv2d):
        return linear(x, weight)
    assert layer.padding_mode == "zeros"  # as every convolution of timm
    convolve = conv1d if isinstance(layer, nn.Conv1d) else conv2d
    return convolve(x, weight, None, layer.stride, layer.padding, layer.dilation, layer.groups).movedim(1, -1)
