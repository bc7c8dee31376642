"""Adapters in the Hugging Face PEFT format and the network that they belong to: fitted to a base, loaded and saved.

The head is among the tensors as one of peft's ``modules_to_save``. A choice of q, k, v inside a fused qkv is an
ordinary adapter of the summed rank whose B is zero outside of its blocks.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mode

import torch
from safetensors.torch import save_file
from timm.layers.linear import Linear
from torch import Tensor, nn

from ftx.adapters.adapter_layer import AdapterLayer
from ftx.adapters.adapter_spec import AdapterSpec
from ftx.adapters.attach import adapter_layers
from ftx.adapters.merge_weight import AdapterWeights, Float64
from ftx.adapters.method import RowAdapters
from ftx.adapters.method_table import METHODS
from ftx.adapters.peft_config import CONFIG, PeftConfig
from ftx.adapters.peft_file import PREFIX, WEIGHTS, PeftFile, key_of, read_peft_file
from ftx.backbones.kept_tokens import kept_fractions
from ftx.backbones.layer_roles import head_names
from ftx.core.disk import disk_faults
from ftx.core.errors import AdapterError
from ftx.core.files import write_atomic


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
        """The adapter's config."""
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
            "the adapter's targets must be layers of the base",
            where=file.config.path,
            found=str(file.config.document.target_modules or "no targets")[:100],
            fix="run again with the base that it was trained on: --base NAME",
        )
    kept = {theirs: ours for theirs, ours in naming.modules.items() if theirs not in without}
    saved = _saved_modules(file, kept, state)
    expected |= {key: tuple(state[ours].shape) for ours, key in saved.items()}
    file.require(
        expected, "the adapter must fit its base", "run again with the base that it was trained on: --base NAME"
    )
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
                "each adapter must be in a layer that ftx can merge",
                where=file.path,
                found=f"{name} is a {type(layer).__name__}, which does not use its weight unchanged",
                fix="merge the adapter with peft (merge_and_unload), and compare the outputs",
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


def save_adapter(module: nn.Module, spec: AdapterSpec, *, base_model: str, base_digest: str, folder: Path) -> None:
    """Write the adapters and the head of ``module`` into an existing folder; peft opens it on the timm model."""
    heads, method = head_names(module), METHODS[spec.kind]
    tensors: dict[str, Tensor] = {}
    ranks: dict[str, int] = {}
    alphas: dict[str, float] = {}
    for name, layer in adapter_layers(module):
        factors, rank, scaling = layer.stored()
        tensors |= {key_of(name, method.factors[key]): one for key, one in factors.items()}
        ranks[name] = rank
        # One alpha a layer such that peft's own rule gives the scaling that was trained with.
        alphas[name] = scaling * (math.sqrt(rank) if spec.rslora else rank)
    for head in heads:
        tensors |= {f"{PREFIX}{head}.{key}": one for key, one in module.get_submodule(head).state_dict().items()}

    rank, alpha = mode(ranks.values()), mode(alphas.values())
    config = {
        "peft_type": method.peft_type,
        "base_model_name_or_path": base_model,
        "r": rank,
        method.alpha_key: _whole(alpha),
        # One expression that must match the whole name: as a list item, "proj" would also hit patch_embed.proj.
        "target_modules": "|".join(re.escape(name) for name in ranks),
        "modules_to_save": list(heads),
        "rank_pattern": {re.escape(name): r for name, r in ranks.items() if r != rank},
        "alpha_pattern": {re.escape(name): _whole(a) for name, a in alphas.items() if a != alpha},
        **method.config(spec),
        "inference_mode": True,
        "task_type": None,
        # peft ignores this key with a warning; a merge here finds the base again by it.
        "ftx": {"base_digest": base_digest} | ({"keep_tokens": kept} if (kept := kept_fractions(module)) else {}),
    }
    with disk_faults(folder):
        stored = {key: tensor.detach().float().contiguous() for key, tensor in tensors.items()}
        save_file(stored, folder / WEIGHTS, metadata={"format": "pt"})
    write_atomic(folder / CONFIG, (json.dumps(config, indent=2) + "\n").encode())


def _whole(number: float) -> int | float:
    return int(number) if number == int(number) else number
