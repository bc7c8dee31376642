"""Adapters on disk, in the Hugging Face PEFT format: ``adapter_config.json`` and ``adapter_model.safetensors``.

The head stands among the tensors as one of peft's ``modules_to_save``, so the folder alone, laid over
the base, is the trained model. A choice of q, k, v inside a fused qkv is an ordinary adapter of the
summed rank whose B is zero outside of its blocks.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ftx.adapters.attach import adapter_layers
from ftx.adapters.kernel import AdapterWeights, Float64
from ftx.adapters.layer import AdaptedLinear
from ftx.adapters.naming import Naming, Place, timm_naming
from ftx.adapters.peft_config import CONFIG, PeftConfig, read_config
from ftx.adapters.pissa import plain_factors
from ftx.adapters.spec import AdapterSpec
from ftx.backbones.families import head_names
from ftx.core.errors import AdapterError
from ftx.core.files import disk_faults, write_atomic
from ftx.core.regular_files import require_file

WEIGHTS = "adapter_model.safetensors"
Number = TypeVar("Number", int, float)

PREFIX = "base_model.model."
LORA_A, LORA_B, MAGNITUDE = "lora_A", "lora_B", "lora_magnitude_vector"
_ON_DISK = {LORA_A: "lora_A.weight", LORA_B: "lora_B.weight", MAGNITUDE: "lora_magnitude_vector"}
_SAVE_AGAIN = "save it with safe_serialization=True: adapter_model.bin is not read, as it can run code"
_KEY = re.compile(rf"{re.escape(PREFIX)}(?P<name>.+)\.(?P<part>{LORA_A}|{LORA_B}|{MAGNITUDE})(?:\.weight)?")


@dataclass(frozen=True)
class AdapterFile:
    """What an adapter folder holds: one adapter a layer, and what was trained whole (the head), by names of the base.

    Shape: the weight of a convolution counts as [O, I·h·w].
    """

    layers: Mapping[str, AdapterWeights]
    saved: Mapping[str, Tensor]
    config: PeftConfig


def save_adapter(module: nn.Module, spec: AdapterSpec, *, base_model: str, base_digest: str, folder: Path) -> None:
    """Write the adapters and the head of ``module`` into an existing folder; peft opens it on the timm model."""
    layers = dict(adapter_layers(module))
    heads = head_names(module)
    tensors: dict[str, Tensor] = {}
    ranks: dict[str, int] = {}
    alphas: dict[str, float] = {}
    for name, layer in layers.items():
        lora_A, lora_B, scaling = _plain(layer)
        magnitude = layer.lora_magnitude_vector
        for attribute, tensor in zip(_ON_DISK, (lora_A, lora_B, magnitude), strict=True):
            if tensor is not None:
                tensors[f"{PREFIX}{name}.{_ON_DISK[attribute]}"] = tensor.detach().float().contiguous()
        ranks[name] = len(lora_A)
        # One alpha a layer such that peft's own rule gives the scaling that was trained with.
        alphas[name] = scaling * (math.sqrt(len(lora_A)) if spec.rslora else len(lora_A))
    for head in heads:
        for key, tensor in module.get_submodule(head).state_dict().items():
            tensors[f"{PREFIX}{head}.{key}"] = tensor.detach().float().contiguous()

    rank, alpha = _commonest(ranks), _commonest(alphas)
    config = {
        "peft_type": "LORA",
        "base_model_name_or_path": base_model,
        "r": rank,
        "lora_alpha": _whole(alpha),
        "lora_dropout": spec.dropout,
        "bias": "none",
        "fan_in_fan_out": False,
        # One expression that must match the whole name: as a list item, "proj" would also hit patch_embed.proj.
        "target_modules": "|".join(re.escape(name) for name in layers),
        "modules_to_save": list(heads),
        "use_dora": spec.kind == "dora",
        "use_rslora": spec.rslora,
        "rank_pattern": {re.escape(name): r for name, r in ranks.items() if r != rank},
        "alpha_pattern": {re.escape(name): _whole(a) for name, a in alphas.items() if a != alpha},
        "init_lora_weights": True,
        "inference_mode": True,
        "task_type": None,
        # peft ignores this key with a warning; a merge here finds the base again by it.
        "ftx": {"base_digest": base_digest},
    }
    with disk_faults(folder):
        save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    write_atomic(folder / CONFIG, (json.dumps(config, indent=2) + "\n").encode())


def _plain(layer: AdaptedLinear) -> tuple[Tensor, Tensor, float]:
    """A, B and the one scaling that peft knows a layer by; where targets differ in theirs, the rest goes into B."""
    lora_A, lora_B, scaling = plain_factors(layer)
    if not isinstance(scaling, Tensor):
        return lora_A, lora_B, scaling
    largest = scaling.max()
    return lora_A, lora_B * (scaling / largest), float(largest)


def read_adapter(
    folder: Path, base: nn.Module, namings: Sequence[Naming] = (), *, without: Collection[str] = ()
) -> AdapterFile:
    """Read an adapter and hold every tensor against the base it is for.

    ``namings`` are what its library may call the layers, by default the names of the base itself; ``without`` are
    modules saved with it that are left out, by their names there.
    Raises: AdapterError for a file that is not whole, missing or spare keys, shapes that do not fit
    the base, or values that are not finite.
    """
    config = read_config(folder)
    left_out = tuple(f"{PREFIX}{name}." for name in without)
    tensors = {
        key: tensor for key, tensor in _read_tensors(folder / WEIGHTS).items() if not key.startswith(left_out or "\0")
    }
    found, spare = _by_layer(tensors)
    naming = max(namings or [timm_naming(base)], key=lambda one: len(found.keys() & one.layers.keys()))
    state = base.state_dict()
    expected: dict[str, tuple[int, ...]] = {}
    pieces: dict[str, list[tuple[Place, AdapterWeights]]] = {}
    for name, place in naming.layers.items():
        if not config.targets_layer(name) or f"{place.layer}.weight" not in state:
            continue  # a head that was left out has no weight
        rank, scaling = config.rank_and_scaling(name)
        outputs, *inputs = state[f"{place.layer}.weight"][slice(None) if place.rows is None else place.rows].shape
        ones = (1,) * (len(inputs) - 1)  # those of a convolution
        shapes = {LORA_A: (rank, *inputs), LORA_B: (outputs, rank, *ones)}
        if config.dora:
            shapes[MAGNITUDE] = (1, outputs, *ones) if ones else (outputs,)
        held = found.pop(name, {})
        for part, shape in shapes.items():
            expected[held[part][0] if part in held else f"{PREFIX}{name}.{_ON_DISK[part]}"] = shape
        if shapes == {part: tuple(tensor.shape) for part, (_, tensor) in held.items()}:
            A, B, *magnitude = (np.asarray(held[part][1].double()) for part in shapes)
            adapter = AdapterWeights(
                A.reshape(rank, -1), B.reshape(-1, rank), scaling, magnitude[0].reshape(-1) if magnitude else None
            )
            pieces.setdefault(place.layer, []).append((place, adapter))
    others = {name: layer for name, layer in base.named_modules() if name in found and name not in naming.layers}
    for name, layer in others.items():
        raise AdapterError(
            "an adapter in a layer that ftx cannot merge",
            where=folder / WEIGHTS,
            found=f"{name} is a {type(layer).__name__}, which does not compute with its weight as it is",
            mend="merge it with peft (merge_and_unload), and compare its answers",
        )
    if not expected:
        raise AdapterError(
            "the adapter's targets are in no layer of the base",
            where=config.path,
            found=str(config.document.target_modules or "no targets")[:100],
            mend="name the base that it was trained on",
        )
    kept = {theirs: ours for theirs, ours in naming.modules.items() if theirs not in without}
    saved = _saved_modules(config, kept, state, spare)
    expected |= {key: tuple(state[ours].shape) for ours, key in saved.items()}
    _hold(tensors, expected, folder / WEIGHTS)
    weights = {layer: np.asarray(state[f"{layer}.weight"].double().flatten(1)) for layer in pieces}
    return AdapterFile(
        layers={layer: _in_one(weights[layer], parts) for layer, parts in pieces.items()},
        saved={ours: tensors[key] for ours, key in saved.items()},
        config=config,
    )


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        require_file(path)
        tensors = load_file(path)
    except FileNotFoundError:
        raise AdapterError("the adapter's tensors are not there", where=path, mend=_SAVE_AGAIN) from None
    except (SafetensorError, OSError) as error:
        raise AdapterError("the adapter's tensors cannot be read", where=path, found=str(error)) from error
    if whole := [key for key, tensor in tensors.items() if not tensor.is_floating_point()]:
        whole = [key for key in whole if _KEY.fullmatch(key)]  # a head may count its batches
        if whole:
            found = f"{whole[0]}: {tensors[whole[0]].dtype}"
            raise AdapterError("an adapter of whole numbers", where=path, found=found, mend="save it in f32 or f16")
    if broken := [key for key, tensor in tensors.items() if not torch.isfinite(tensor.float()).all()]:
        raise AdapterError("the adapter has values that are not finite", where=path, found=", ".join(broken[:3]))
    return tensors


def _by_layer(tensors: Mapping[str, Tensor]) -> tuple[dict[str, dict[str, tuple[str, Tensor]]], list[str]]:
    """The parts of each layer's adapter, with their keys, and the keys that are no such part."""
    found: dict[str, dict[str, tuple[str, Tensor]]] = {}
    spare: list[str] = []
    for key, tensor in tensors.items():
        match = _KEY.fullmatch(key)
        if match is None:
            spare.append(key)
        else:
            found.setdefault(match["name"], {})[match["part"]] = (key, tensor)
    return found, spare


def _saved_modules(
    config: PeftConfig, named: Mapping[str, str], state: Mapping[str, Tensor], given: Sequence[str]
) -> dict[str, str]:
    """Our name of each tensor that was trained and saved whole, and its key in the file."""
    modules = {theirs: ours for theirs, ours in named.items() if config.saves(theirs)}
    saved: dict[str, str] = {}
    for theirs, ours in modules.items():
        for name in state:
            parent, _, leaf = name.rpartition(".")
            key = f"{PREFIX}{theirs}.{leaf}"
            # What is named by its whole name must be there; of what an ending names, what is there counts.
            whole = any(f"{theirs}.".startswith(f"{one}.") for one in config.saved)
            if parent == ours and (whole or key in given):
                saved[name] = key
    return saved


def _in_one(weight_OI: Float64, parts: Sequence[tuple[Place, AdapterWeights]]) -> AdapterWeights:
    """The adapters of the rows of one layer as one adapter of their summed rank, each scaling gone into its B."""
    (place, first), *rest = parts
    if place.rows is None and not rest:
        return first
    B_OR = np.zeros((len(weight_OI), sum(len(adapter.lora_A_RI) for _, adapter in parts)))
    # A row that no adapter has keeps the magnitude that it has in the base.
    magnitude_O = np.linalg.norm(weight_OI, axis=1)
    start = 0
    for one, adapter in parts:
        rows, stop = slice(None) if one.rows is None else one.rows, start + len(adapter.lora_A_RI)
        B_OR[rows, start:stop] = adapter.scaling * adapter.lora_B_OR
        if adapter.magnitude_O is not None:
            magnitude_O[rows] = adapter.magnitude_O
        start = stop
    A_RI = np.concatenate([adapter.lora_A_RI for _, adapter in parts])
    return AdapterWeights(A_RI, B_OR, 1.0, None if first.magnitude_O is None else magnitude_O)


def stored_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """The tensors of an adapter by their names in the model around it, without reading them.

    Raises: AdapterError if it is no whole safetensors file.
    """
    path = folder / WEIGHTS
    try:
        require_file(path)
        with safe_open(path, "pt") as file:
            return {key.removeprefix(PREFIX): tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise AdapterError("the adapter's tensors are not there", where=path, mend=_SAVE_AGAIN) from None
    except (SafetensorError, OSError) as error:
        raise AdapterError("the adapter's tensors cannot be read", where=path, found=str(error)) from error


def load_adapter(module: nn.Module, folder: Path) -> None:
    """Fill the adapters and the head of a model that ``attach_saved`` has prepared, in place."""
    read = read_adapter(folder, module)
    with torch.no_grad():
        for name, layer in adapter_layers(module):
            held = read.layers[name]
            layer.lora_A.copy_(torch.from_numpy(held.lora_A_RI))
            layer.lora_B.copy_(torch.from_numpy(held.lora_B_OR))
            if held.magnitude_O is not None:
                layer.get_parameter(MAGNITUDE).copy_(torch.from_numpy(held.magnitude_O))
            if isinstance(layer.scaling, Tensor):
                layer.scaling.fill_(held.scaling)
        own = module.state_dict()  # a head may keep batch statistics
        for key, tensor in read.saved.items():
            own[key].copy_(tensor)


def _hold(tensors: Mapping[str, Tensor], expected: Mapping[str, tuple[int, ...]], path: Path) -> None:
    missing = sorted(expected.keys() - tensors.keys())
    spare = sorted(tensors.keys() - expected.keys())
    shapes = sorted(key for key in expected.keys() & tensors.keys() if tuple(tensors[key].shape) != expected[key])
    told = {"missing": missing, "spare": spare, "of a wrong shape": shapes}
    if any(told.values()):
        found = "; ".join(f"{len(keys)} keys {kind} ({keys[0]})" for kind, keys in told.items() if keys)
        mend = "name the base that it was trained on, or train again"
        raise AdapterError("the adapter does not fit its base", where=path, found=found, mend=mend)


def _commonest(values: Mapping[str, Number]) -> Number:
    counted = list(values.values())
    return max(counted, key=counted.count)


def _whole(number: float) -> int | float:
    return int(number) if number == int(number) else number
