"""What a library calls the layers of a network that can have an adapter, and where each stands in the timm model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from timm.layers.linear import Linear
from torch import nn

from ftx.adapters.adapter_layer import AdapterLayer


@dataclass(frozen=True)
class LayerRows:
    """Where a layer of another library stands in the timm model: a layer, and its rows there."""

    layer: str
    rows: slice = field(default_factory=lambda: slice(None))


@dataclass(frozen=True)
class Naming:
    """What another library calls the layers that can have an adapter, and the modules that may be saved whole."""

    layers: Mapping[str, LayerRows]
    modules: Mapping[str, str]


def timm_naming(module: nn.Module) -> Naming:
    """The names of timm itself, of linear layers and convolutions that compute with their weight as it is.

    A convolution that standardises its weight computes something else with W + s·B·A than with W and the adapter apart.
    """
    plain = (nn.Linear.forward, Linear.forward, nn.Conv2d.forward, nn.Conv1d.forward)
    layers = {
        name: LayerRows(name)
        for name, layer in module.named_modules()
        if type(layer).forward in plain or isinstance(layer, AdapterLayer)
    }
    return Naming(layers, {name: name for name, _ in module.named_modules() if name})
