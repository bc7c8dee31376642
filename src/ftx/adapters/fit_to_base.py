"""An adapter folder held against the base that it is for: its tensors by the names and in the rows of our network."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ftx.adapters.attach import adapter_layers
from ftx.adapters.merge_weight import AdapterWeights, Float64
from ftx.adapters.method import RowAdapters
from ftx.adapters.naming import LayerRows, Naming, timm_naming
from ftx.adapters.peft_config import PeftConfig
from ftx.adapters.peft_file import PREFIX, PeftFile, read_peft_file
from ftx.core.errors import AdapterError


@dataclass(frozen=True)
class FittedAdapter:
    """One adapter per layer, and the modules that were trained whole (the head), by names of the base.

    Shape: the weight of a convolution counts as [O, I·h·w].
    """

    layers: Mapping[str, AdapterWeights]
    saved: Mapping[str, Tensor]
    file: PeftFile

    @property
    def config(self) -> PeftConfig:
        """What the adapter's config says."""
        return self.file.config


def read_adapter(
    folder: Path, base: nn.Module, namings: Sequence[Naming] = (), *, without: Collection[str] = ()
) -> FittedAdapter:
    """Read an adapter and hold every tensor against the base it is for.

    ``namings`` are what its library may call the layers, by default the names of the base itself; ``without`` are
    modules saved with it that are left out, by their names there.
    Raises: AdapterError for a file that is not whole, missing or spare keys, shapes that do not fit
    the base, or values that are not finite.
    """
    file = read_peft_file(folder, without=without)
    naming = max(namings or [timm_naming(base)], key=lambda one: len(file.keys.keys() & one.layers.keys()))
    state = base.state_dict()
    expected: dict[str, tuple[int, ...]] = {}
    pieces: dict[str, list[tuple[str, LayerRows]]] = {}
    for name, place in naming.layers.items():
        if not file.config.targets_layer(name) or f"{place.layer}.weight" not in state:
            continue  # a head that was left out has no weight
        expected |= file.expected(name, state[f"{place.layer}.weight"][place.rows].shape)
        pieces.setdefault(place.layer, []).append((name, place))
    _check_mergeable(file, base, naming)
    if not expected:
        raise AdapterError(
            "the adapter's targets are in no layer of the base",
            where=file.config.path,
            found=str(file.config.document.target_modules or "no targets")[:100],
            fix="name the base that it was trained on",
        )
    kept = {theirs: ours for theirs, ours in naming.modules.items() if theirs not in without}
    saved = _saved_modules(file, kept, state)
    expected |= {key: tuple(state[ours].shape) for ours, key in saved.items()}
    file.require(expected, "the adapter does not fit its base", "name the base that it was trained on, or train again")
    return FittedAdapter(
        layers={layer: _in_one(file, state[f"{layer}.weight"], parts) for layer, parts in pieces.items()},
        saved={ours: torch.from_numpy(file.tensors[key]) for ours, key in saved.items()},
        file=file,
    )


def load_adapter(module: nn.Module, folder: Path) -> None:
    """Fill the adapters and the head of a model that ``attach_saved`` has prepared, in place."""
    read = read_adapter(folder, module)
    for name, layer in adapter_layers(module):
        factors = {key: torch.from_numpy(tensor) for key, tensor in read.file.factors(name).items()}
        layer.load(factors, read.file.scaling(name))
    with torch.no_grad():
        own = module.state_dict()  # a head may keep batch statistics
        for key, tensor in read.saved.items():
            own[key].copy_(tensor)


def flat(weight: Tensor) -> Float64:
    """A weight in float64. Shape: [O, I]; of a convolution [O, I·h·w]."""
    return weight.detach().double().flatten(1).numpy()


def _check_mergeable(file: PeftFile, base: nn.Module, naming: Naming) -> None:
    """Raise AdapterError for an adapter in a layer of the base that computes something else with W + s·B·A."""
    for name, layer in base.named_modules():
        if name in file.keys and name not in naming.layers:
            raise AdapterError(
                "an adapter in a layer that ftx cannot merge",
                where=file.path,
                found=f"{name} is a {type(layer).__name__}, which does not compute with its weight as it is",
                fix="merge it with peft (merge_and_unload), and compare its outputs",
            )


def _saved_modules(file: PeftFile, named: Mapping[str, str], state: Mapping[str, Tensor]) -> dict[str, str]:
    """Our name of each tensor that was trained and saved whole, and its key in the file."""
    modules = {theirs: ours for theirs, ours in named.items() if file.config.saves(theirs)}
    saved: dict[str, str] = {}
    for theirs, ours in modules.items():
        for name in state:
            parent, _, leaf = name.rpartition(".")
            key = f"{PREFIX}{theirs}.{leaf}"
            # What is named by its whole name must be there; of what an ending names, what is there counts.
            whole = any(f"{theirs}.".startswith(f"{one}.") for one in file.config.saved)
            if parent == ours and (whole or key in file.others):
                saved[name] = key
    return saved


def _in_one(file: PeftFile, weight: Tensor, parts: Sequence[tuple[str, LayerRows]]) -> AdapterWeights:
    """The adapters of the rows of one layer as one adapter."""
    row_adapters: RowAdapters = [(place.rows, file.weights(name)) for name, place in parts]
    (rows, first), *rest = row_adapters
    return first if rows == slice(None) and not rest else file.config.method.in_one(flat(weight), row_adapters)
