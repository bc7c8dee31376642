"""AdamW, a linear warm-up and a cosine down to zero."""

from __future__ import annotations

import math
from collections.abc import Collection

import torch
from timm.optim import param_groups_weight_decay  # pyright: ignore[reportPrivateImportUsage]
from torch import nn

from ftx.adapters.attach import adapter_layers
from ftx.recipe.method_defaults import METHODS, Method
from ftx.recipe.sections import TrainRecipe


def peak_lr(recipe: TrainRecipe, method: Method) -> float:
    """The learning rate of the recipe, or the default of the method."""
    return METHODS[method].lr if recipe.lr == "auto" else recipe.lr


def optimizer(module: nn.Module, lr: float, weight_decay: float, *, lora_plus: float = 1.0) -> torch.optim.AdamW:
    """AdamW over the parameters that train; timm decides which decay, except PiSSA's factors, which do not.

    Vectors (biases, norms, DoRA's magnitudes) do not decay, nor what the model names: position embeddings, class token.
    ``lora_plus`` is the learning rate of the adapters' B divided by that of their A.
    Source: LoRA+, arXiv:2402.12354, section 4. Decay pulls a plain adapter towards no change; PiSSA's factors are a
    part of the pretrained weight, which would fade (its authors train without any decay).
    """
    layers = [layer for _, layer in adapter_layers(module)]
    kept = {id(factor) for layer in layers for factor in layer.undecayed}
    faster = {id(factor) for layer in layers for factor in layer.faster}
    named: Collection[str] = getattr(module, "no_weight_decay", tuple)()
    groups: dict[tuple[float, float], list[nn.Parameter]] = {(lr, weight_decay): [], (lr, 0.0): []}
    for group in param_groups_weight_decay(module, weight_decay, no_weight_decay_list=named):
        for parameter in group["params"]:
            decay = 0.0 if id(parameter) in kept else float(group["weight_decay"])
            peak = lr * lora_plus if id(parameter) in faster else lr
            groups.setdefault((peak, decay), []).append(parameter)
    # One pass over each tensor instead of ten.
    return torch.optim.AdamW(
        [
            {"params": found, "lr": peak, "peak_lr": peak, "weight_decay": decay}
            for (peak, decay), found in groups.items()
            if found
        ],
        lr=lr,
        fused=True,
    )


def lr_multiplier(step: int, steps: int, warmup_share: float) -> float:
    """The learning rate at a step, counted from 0, as a fraction of its peak.

    Linear up to the peak, then half a cosine to zero (arXiv:1608.03983).
    """
    warmup = round(steps * warmup_share)
    if step < warmup:
        return (step + 1) / warmup
    return (1 + math.cos(math.pi * (step - warmup) / max(steps - warmup, 1))) / 2


def set_lr_multiplier(optimizer: torch.optim.Optimizer, multiplier: float) -> None:
    """Set the learning rate of each group of parameters to this fraction of its peak."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak_lr"] * multiplier
