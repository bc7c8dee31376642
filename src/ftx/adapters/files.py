"""Adapters on disk, in the Hugging Face PEFT format: ``adapter_config.json`` and ``adapter_model.safetensors``.

The head stands among the tensors as one of peft's ``modules_to_save``, so the folder alone, laid over
the base, is the trained model. A choice of q, k, v inside a fused qkv is an ordinary adapter of the
summed rank whose B is zero outside of its blocks.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ftx.adapters.attach import adapter_layers
from ftx.adapters.kernel import LayerAdapter
from ftx.adapters.spec import AdapterSpec
from ftx.backbones.families import head_names
from ftx.errors import AdapterError
from ftx.files import disk_faults, write_atomic

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
Number = TypeVar("Number", int, float)

_PREFIX = "base_model.model."
_SUFFIXES = {"lora_A": "lora_A.weight", "lora_B": "lora_B.weight", "lora_magnitude_vector": "lora_magnitude_vector"}


@dataclass(frozen=True)
class AdapterFile:
    """What an adapter folder holds: one adapter a layer, and the head's tensors by their timm names."""

    layers: Mapping[str, LayerAdapter]
    head: Mapping[str, Tensor]
    tensors: Mapping[str, Tensor]


def save_adapter(module: nn.Module, spec: AdapterSpec, *, base_model: str, base_digest: str, folder: Path) -> None:
    """Write the adapters and the head of ``module`` into an existing folder; peft opens it on the timm model."""
    layers = dict(adapter_layers(module))
    heads = head_names(module)
    tensors: dict[str, Tensor] = {}
    for name, layer in layers.items():
        for attribute, suffix in _SUFFIXES.items():
            if (tensor := getattr(layer, attribute, None)) is not None:
                tensors[f"{_PREFIX}{name}.{suffix}"] = tensor.detach().float().contiguous()
    for head in heads:
        for key, tensor in module.get_submodule(head).state_dict().items():
            tensors[f"{_PREFIX}{head}.{key}"] = tensor.detach().float().contiguous()

    ranks = {name: layer.lora_A.shape[0] for name, layer in layers.items()}
    # One alpha a layer such that peft's own rule gives the scaling that was trained with.
    alphas = {
        name: layer.scaling * (math.sqrt(ranks[name]) if spec.rslora else ranks[name]) for name, layer in layers.items()
    }
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


def read_adapter(folder: Path, base: nn.Module) -> AdapterFile:
    """Read an adapter and hold every tensor against the base it is for.

    Raises: AdapterError for a file that is not whole, missing or spare keys, shapes that do not fit
    the base, or values that are not finite.
    """
    config = _read_config(folder)
    path = folder / WEIGHTS
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise AdapterError("the adapter's tensors cannot be read", where=path, found=str(error)) from error
    if broken := [key for key, tensor in tensors.items() if not torch.isfinite(tensor).all()]:
        raise AdapterError("the adapter has values that are not finite", where=path, found=", ".join(broken[:3]))

    parameters = dict(base.named_parameters())
    names = _matched_names(config, base)
    layers: dict[str, LayerAdapter] = {}
    expected: dict[str, tuple[int, ...]] = {}
    for name in names:
        outputs, inputs = parameters[f"{name}.weight"].shape
        rank, scaling = _rank_and_scaling(config, name)
        shapes: dict[str, tuple[int, ...]] = {"lora_A": (rank, inputs), "lora_B": (outputs, rank)}
        if config.get("use_dora"):
            shapes["lora_magnitude_vector"] = (outputs,)
        keys = {attribute: f"{_PREFIX}{name}.{_SUFFIXES[attribute]}" for attribute in shapes}
        expected |= {keys[attribute]: shape for attribute, shape in shapes.items()}
        if all(key in tensors for key in keys.values()):
            wide = {attribute: np.asarray(tensors[key].double()) for attribute, key in keys.items()}
            layers[name] = LayerAdapter(wide["lora_A"], wide["lora_B"], scaling, wide.get("lora_magnitude_vector"))
    head = {
        f"{name}.{key}": tensor
        for name in head_names(base)
        for key, tensor in base.get_submodule(name).state_dict().items()
    }
    expected |= {f"{_PREFIX}{key}": tuple(tensor.shape) for key, tensor in head.items()}
    _hold(tensors, expected, path)
    return AdapterFile(layers=layers, head={key: tensors[f"{_PREFIX}{key}"] for key in head}, tensors=tensors)


def load_adapter(module: nn.Module, folder: Path) -> None:
    """Fill the adapters and the head of a model that ``attach`` has prepared, in place."""
    read = read_adapter(folder, module)
    with torch.no_grad():
        for name, layer in adapter_layers(module):
            for attribute, suffix in _SUFFIXES.items():
                if (parameter := getattr(layer, attribute, None)) is not None:
                    parameter.copy_(read.tensors[f"{_PREFIX}{name}.{suffix}"])
        own = module.state_dict()  # a head may keep batch statistics
        for key, tensor in read.head.items():
            own[key].copy_(tensor)


def adapter_base_digest(folder: Path) -> str | None:
    """The digest of the base that an adapter was trained on, if it says so."""
    note = _read_config(folder).get("ftx")
    digest: object = note.get("base_digest") if isinstance(note, dict) else None  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType]
    return digest if isinstance(digest, str) else None


def _read_config(folder: Path) -> dict[str, object]:
    path = folder / CONFIG
    try:
        config: object = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise AdapterError("the adapter's config cannot be read", where=path, found=str(error)) from error
    if not isinstance(config, dict):
        raise AdapterError("the adapter's config is no mapping", where=path)
    found: dict[str, object] = {str(key): value for key, value in config.items()}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    if found.get("peft_type") != "LORA":
        raise AdapterError("only LoRA and DoRA adapters merge", where=path, found=f"peft_type {found.get('peft_type')}")
    return found


def _matched_names(config: Mapping[str, object], base: nn.Module) -> list[str]:
    targets = config.get("target_modules")
    if not isinstance(targets, str):
        raise AdapterError("target_modules is not one expression", found=str(targets))
    expression = re.compile(targets)
    names = [name for name, layer in base.named_modules() if expression.fullmatch(name) and hasattr(layer, "weight")]
    if not names:
        raise AdapterError("the adapter's targets match no layer of the base", found=targets)
    return names


def _rank_and_scaling(config: Mapping[str, object], name: str) -> tuple[int, float]:
    rank = int(_of_pattern(config, "rank_pattern", name, "r"))
    alpha = _of_pattern(config, "alpha_pattern", name, "lora_alpha")
    return rank, alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _of_pattern(config: Mapping[str, object], pattern: str, name: str, default: str) -> float:
    exceptions = config.get(pattern) or {}
    value = config.get(default)
    if isinstance(exceptions, dict):
        for key, exception in exceptions.items():  # pyright: ignore[reportUnknownVariableType]
            # peft's rule: the pattern is a suffix of the name that begins at a dot.
            if re.fullmatch(rf"(?:.*\.)?(?:{key})", name):
                value: object = exception  # pyright: ignore[reportUnknownVariableType]
                break
    if not isinstance(value, int | float) or isinstance(value, bool) or value <= 0:
        raise AdapterError(f"the adapter's {default} is no positive number", where=name, found=str(value))
    return float(value)


def _hold(tensors: Mapping[str, Tensor], expected: Mapping[str, tuple[int, ...]], path: Path) -> None:
    missing = sorted(expected.keys() - tensors.keys())
    spare = sorted(tensors.keys() - expected.keys())
    shapes = sorted(key for key in expected.keys() & tensors.keys() if tuple(tensors[key].shape) != expected[key])
    told = {"missing": missing, "spare": spare, "of a wrong shape": shapes}
    if any(told.values()):
        found = "; ".join(f"{len(keys)} keys {kind} ({keys[0]})" for kind, keys in told.items() if keys)
        raise AdapterError("the adapter does not fit its base", where=path, found=found, mend="train again")


def _commonest(values: Mapping[str, Number]) -> Number:
    counted = list(values.values())
    return max(counted, key=counted.count)


def _whole(number: float) -> int | float:
    return int(number) if number == int(number) else number
