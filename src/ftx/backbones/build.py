"""A timm model with its pretrained weights, a head of the width asked for, and the input size asked for."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import timm
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from ftx.backbones.digest import base_digest
from ftx.backbones.families import head_names, plain_vit, pretrained_config
from ftx.backbones.stages import token_shape
from ftx.backbones.weights import fetch_pretrained, read_weights
from ftx.data.preprocess import Preprocess
from ftx.errors import ModelError, nearest
from ftx.resources import EMBEDDED, embedded_weights

# Models whose pretrained size is too slow for this use, and the size that "auto" means instead.
_AUTO_SIZE = {518: 224}


@dataclass(frozen=True)
class Backbone:
    """A model ready to be adapted: f32, head fresh, position embedding resampled once."""

    module: nn.Module
    architecture: str
    digest: str
    preprocess: Preprocess


def build(name: str, *, weights: str, num_classes: int, image_size: int | str, seed: int) -> Backbone:
    """Build ``name`` (an embedded alias or any timm name of a known family).

    ``weights``: ``auto`` (embedded, else the hub), ``none`` (random, by ``seed``) or a safetensors file.
    Raises: ModelError for an unknown model, an input size that the patches do not divide, or weights
    that do not fit; EnvironmentFault if the hub cannot be reached.
    """
    architecture = resolve(name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = timm.create_model(architecture, num_classes=0)
        _load(module, name, architecture, weights)
        heads = head_names(module)
        digest = base_digest(module.state_dict(), heads)
        side = _input_side(module, image_size, name)
        _take_size(module, side, name)
        cast("VisionTransformer", module).reset_classifier(num_classes)  # as every classifier of timm
    return Backbone(
        module=module.eval(), architecture=architecture, digest=digest, preprocess=_preprocess(module, side)
    )


def resolve(name: str) -> str:
    """The timm architecture that a name stands for.

    Raises: ModelError naming the nearest known model.
    """
    if name in EMBEDDED:
        return EMBEDDED[name][0]
    bare = name.split(".")[0]
    if not timm.is_model(bare):
        known = [*EMBEDDED, *timm.list_models()]
        alike = nearest(name, known)
        raise ModelError(
            f"there is no model called {name!r}",
            found=f"nearest: {alike}" if alike else f"{len(known)} models are known, none of a like name",
            mend=f"--model {alike or 'dinov2-small'}",
        )
    if bare != name and name not in (tagged := timm.list_pretrained(f"{bare}.*")):
        alike = nearest(name, tagged)
        raise ModelError(
            f"there are no pretrained weights called {name!r}",
            found=f"nearest: {alike}" if alike else f"of {bare} there are {', '.join(tagged) or 'none'}",
            mend=f"--model {alike or bare}",
        )
    return name


def _take_size(module: nn.Module, side: int, name: str) -> None:
    """Build the model for this input size, its position embedding resampled once.

    Raises: ModelError where the family takes no other size than its own, or not this one.
    """
    if hasattr(module, "set_input_size"):
        try:
            cast("VisionTransformer", module).set_input_size(img_size=(side, side))
        except (AssertionError, RuntimeError, ValueError) as error:
            raise ModelError(
                f"{name} does not take this image size",
                where="data.image_size",
                found=f"{side} px: {str(error)[:120]}",
                mend=f"--image-size {_pretrained_side(module)}",
            ) from error
    elif pretrained_config(module).get("fixed_input_size") and side != _pretrained_side(module):
        own = _pretrained_side(module)
        raise ModelError(
            f"{name} takes images of one size",
            where="data.image_size",
            found=f"{side} px",
            mend=f"--image-size {own}",
        )


def _load(module: nn.Module, name: str, architecture: str, weights: str) -> None:
    if weights == "none":
        return
    file = embedded_weights(name) if weights == "auto" else Path(weights)
    if file is None:
        module.load_state_dict(fetch_pretrained(architecture))
        return
    heads, known = head_names(module), module.state_dict().keys()
    state = {key: tensor for key, tensor in read_weights(file).items() if key in known or not _in_heads(key, heads)}
    if (vit := plain_vit(module)) is not None:
        _follow_grid(vit, state)
    own = module.state_dict()
    missing, spare = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    shapes = [key for key in own.keys() & state.keys() if own[key].shape != state[key].shape]
    if missing or spare or shapes:
        counts = {"missing": missing, "not of this model": spare, "of another shape": sorted(shapes)}
        told = "; ".join(f"{len(keys)} tensors {kind} ({keys[0]}, …)" for kind, keys in counts.items() if keys)
        raise ModelError(
            f"the weights do not fit {architecture}", where=file, found=told, mend="name the right --model"
        )
    if broken := sorted(key for key, tensor in state.items() if not torch.isfinite(tensor).all()):
        raise ModelError("weights that are not finite", where=file, found=", ".join(broken[:3]))
    module.load_state_dict(state)


def _in_heads(key: str, heads: tuple[str, ...]) -> bool:
    """Whether a tensor belongs to a head, or to the module around it: levit normalises before its last layer."""
    return key.partition(".")[0] in {head.partition(".")[0] for head in heads}


def _follow_grid(module: VisionTransformer, state: dict[str, Tensor]) -> None:
    """Give the model the patch grid of the file, so that its position embedding fits as it is."""
    position = state.get("pos_embed")
    tokens, _ = token_shape(module)
    if position is None or position.ndim != 3 or position.shape[1] == tokens:
        return
    prefix = tokens - math.prod(module.patch_embed.grid_size)
    side = math.isqrt(max(position.shape[1] - prefix, 0))
    if side > 0 and side**2 == position.shape[1] - prefix:
        patch = _patch_side(module)
        module.set_input_size(img_size=(side * patch, side * patch))


def _patch_side(module: VisionTransformer) -> int:
    return int(module.patch_embed.patch_size[0])


def _pretrained_side(module: nn.Module) -> int:
    _, _, side = cast("tuple[int, int, int]", pretrained_config(module)["input_size"])
    return side


def _input_side(module: nn.Module, image_size: int | str, name: str) -> int:
    if isinstance(image_size, str):
        pretrained = _pretrained_side(module)
        return _AUTO_SIZE.get(pretrained, pretrained)
    vit = plain_vit(module)
    if vit is None:
        return image_size
    patch = _patch_side(vit)
    if image_size % patch or image_size < patch:
        below = max(image_size // patch, 1) * patch
        raise ModelError(
            f"the patch size of {name} does not divide the image size",
            where="data.image_size",
            found=f"{image_size} px, patches of {patch} px",
            mend=f"--image-size {below} or {below + patch}",
        )
    return image_size


def _preprocess(module: nn.Module, side: int) -> Preprocess:
    """The evaluation transform that the weights were made with, at this input size."""
    config = pretrained_config(module)
    crop_share = float(str(config["crop_pct"]))
    mean, std = config["mean"], config["std"]
    return Preprocess(
        height=side,
        width=side,
        resize=math.floor(side / crop_share),  # timm takes the floor
        interpolation=config["interpolation"],  # pyright: ignore[reportArgumentType]
        mean=tuple(mean),  # pyright: ignore[reportArgumentType]
        std=tuple(std),  # pyright: ignore[reportArgumentType]
    )
