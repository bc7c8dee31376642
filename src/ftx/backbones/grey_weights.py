"""Weights made on grey images, for a model that takes RGB: it answers what the grey one would on the grey of an image.

Legend: O outputs and h x w taps of a convolution; G grey inputs, of which a stem that folds pixels into channels has
several.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from ftx.backbones.layer_roles import pretrained_config
from ftx.core.errors import ModelError

# ITU-R BT.601, as Pillow's convert("L") has it before it rounds.
LUMA = (0.299, 0.587, 0.114)


def take_grey(module: nn.Module, state: dict[str, Tensor], file: Path) -> bool:
    """Widen first convolutions of one channel to RGB, in place; whether there were any.

    With mean and std the same for the three channels (``grey_level``), luma commutes with normalisation, padding
    and the convolution: the model in RGB equals the grey one on 0.299 R + 0.587 G + 0.114 B.
    Raises: ModelError for another number of channels, or a convolution that standardises its weights.
    """
    own = module.state_dict()
    grey = False
    for name in _first_convolutions(module):
        key = f"{name}.weight"
        found = state.get(key)
        if found is None or key not in own or found.ndim != 4 or found.shape[1] == own[key].shape[1]:
            continue
        where = f"{file}: {key}"
        if found.shape[1] * len(LUMA) != own[key].shape[1]:
            channels = found.shape[1] * len(LUMA) / own[key].shape[1]
            raise ModelError(
                "the weights are for images of another number of channels",
                where=where,
                found=f"{channels:g} channels, a file of 1 or {len(LUMA)} is read",
                fix="name weights made on RGB or grey images",
            )
        if "Std" in type(module.get_submodule(name)).__name__:  # timm's StdConv2d, ScaledStdConv2d and their like
            raise ModelError(
                "grey weights do not carry over to a convolution that standardises its weights over the channels",
                where=where,
                fix="name weights made on RGB images",
            )
        state[key] = in_rgb(found)
        grey = True
    return grey


def in_rgb(weight_OGhw: Tensor) -> Tensor:
    """Each grey input as three, weighed by luma. Shape: [O, G, h, w] to [O, 3 G, h, w]."""
    luma_3 = torch.tensor(LUMA, dtype=torch.float64)
    weight_OG3hw = weight_OGhw.double()[:, :, None] * luma_3[:, None, None]
    return weight_OG3hw.flatten(1, 2).to(weight_OGhw.dtype)


def grey_level(values: tuple[float, float, float]) -> tuple[float, float, float]:
    """One mean or std for all channels, as timm's loader takes it for a model of one channel: the average of three."""
    level = sum(values) / len(values)
    return level, level, level


def _first_convolutions(module: nn.Module) -> tuple[str, ...]:
    named = pretrained_config(module).get("first_conv") or ()
    return (named,) if isinstance(named, str) else tuple(cast("Sequence[str]", named))
