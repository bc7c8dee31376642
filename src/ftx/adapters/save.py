"""Writing the adapters of a network, and its head, as a folder in the Hugging Face PEFT format.

The head stands among the tensors as one of peft's ``modules_to_save``. A choice of q, k, v inside a fused qkv is an
ordinary adapter of the summed rank whose B is zero outside of its blocks.
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from statistics import mode

from safetensors.torch import save_file
from torch import Tensor, nn

from ftx.adapters.attach import adapter_layers
from ftx.adapters.method_table import METHODS
from ftx.adapters.peft_config import CONFIG
from ftx.adapters.peft_file import PREFIX, WEIGHTS, key_of
from ftx.adapters.spec import AdapterSpec
from ftx.backbones.kept_tokens import kept_fractions
from ftx.backbones.layer_roles import head_names
from ftx.core.disk import disk_faults
from ftx.core.files import write_atomic


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
