"""AdamW, a linear warm-up and a cosine down to zero."""

from __future__ import annotations

import math
from collections.abc import Collection

import torch
from timm.optim import param_groups_weight_decay  # pyright: ignore[reportPrivateImportUsage]
from torch import nn

from ftx.adapters.attach import adapter_layers
from ftx.recipe.adapter_methods import METHODS, Method
from ftx.recipe.sections import TrainRecipe


def peak_lr(recipe: TrainRecipe, method: Method) -> float:
    """The learning rate of the recipe, or the one that suits the method."""
    return METHODS[method].lr if recipe.lr == "auto" else recipe.lr


def optimizer(module: nn.Module, lr: float, weight_decay: float, *, lora_plus: float = 1.0) -> torch.optim.AdamW:
    """AdamW over what trains; what decays is timm's to say, but for PiSSA's factors, which do not.

    Vectors (biases, norms, DoRA's magnitudes) do not, nor what the model names: embeddings of positions, class tokens.
    ``lora_plus`` is how many times the rate of the adapters' A that of their B is.
    Source: LoRA+, arXiv:2402.12354, section 4. Decay pulls a plain adapter towards none; PiSSA's factors are a part of
    the pretrained weight, which would fade (its authors train without any decay).
    """
    layers = [layer for _, layer in adapter_layers(module)]
    kept = {id(factor) for layer in layers for factor in layer.undecayed}
    faster = {id(factor) for layer in layers for factor in layer.faster}
    named: Collection[str] = getattr(module, "no_weight_decay", tuple)()
    groups: dict[tuple[float, float], list[nn.Parameter]] = {(lr, weight_decay): [], (lr, 0.0): []}
    for group in param_groups_weight_decay(module, weight_decay, no_weight_decay_list=named):
        for parameter in group["params"]:
            decay = 0.0 if id(parameter) in kept else float(group["weight_decay"])
            rate = lr * lora_plus if id(parameter) in faster else lr
            groups.setdefault((rate, decay), []).append(parameter)
    # One pass over each tensor instead of ten.
    return torch.optim.AdamW(
        [
            {"params": found, "lr": rate, "peak_lr": rate, "weight_decay": decay}
            for (rate, decay), found in groups.items()
            if found
        ],
        lr=lr,
        fused=True,
    )


def rate_share(step: int, steps: int, warmup_share: float) -> float:
    """The share of its peak that the learning rate has at a step, counted from 0.

    Linear from one step's share up to the peak, then half a cosine to zero (arXiv:1608.03983).
    """
    warmup = round(steps * warmup_share)
    if step < warmup:
        return (step + 1) / warmup
    return (1 + math.cos(math.pi * (step - warmup) / max(steps - warmup, 1))) / 2


def set_rates(optimizer: torch.optim.Optimizer, share: float) -> None:
    """Give each group of parameters this share of its peak learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak_lr"] * share
