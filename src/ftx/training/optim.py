"""AdamW, a linear warm-up and a cosine down to zero."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from ftx.adapters.attach import adapter_layers
from ftx.recipe import Method, TrainRecipe

# Peak learning rates that "auto" means: see docs/decisions/0004-learning-rate-auto.md.
AUTO_LR: dict[Method, float] = {"lora": 1e-3, "dora": 1e-3, "linear": 5e-3, "full": 2e-5}


def peak_lr(recipe: TrainRecipe, method: Method) -> float:
    """The learning rate of the recipe, or the one that suits the method."""
    return AUTO_LR[method] if recipe.lr == "auto" else recipe.lr


def optimizer(module: nn.Module, lr: float, weight_decay: float, *, lora_plus: float = 1.0) -> torch.optim.AdamW:
    """AdamW over what trains; vectors (biases, norms, DoRA's magnitudes) do not decay.

    ``lora_plus`` is how many times the rate of the adapters' A that of their B is.
    Source: LoRA+, arXiv:2402.12354, section 4.
    """
    faster = {id(layer.lora_B) for _, layer in adapter_layers(module)} if lora_plus != 1 else set[int]()
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    plain = [parameter for parameter in trained if id(parameter) not in faster]
    groups = [
        {"params": [parameter for parameter in plain if parameter.ndim > 1], "weight_decay": weight_decay},
        {"params": [parameter for parameter in plain if parameter.ndim <= 1], "weight_decay": 0.0},
    ]
    if faster:
        factors_B = [parameter for parameter in trained if id(parameter) in faster]
        groups.append({"params": factors_B, "weight_decay": weight_decay, "lr": lr * lora_plus})
    return torch.optim.AdamW(groups, lr=lr, fused=True)  # one pass over each tensor instead of ten


def schedule(optimizer: torch.optim.Optimizer, steps: int, warmup_share: float) -> LambdaLR:
    """Linear from one step's share up to the peak, then half a cosine to zero (arXiv:1608.03983)."""
    warmup = round(steps * warmup_share)

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return (1 + math.cos(math.pi * (step - warmup) / max(steps - warmup, 1))) / 2

    return LambdaLR(optimizer, factor)
