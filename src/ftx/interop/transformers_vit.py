"""ViT and DINOv2 as the transformers library writes them, as timm models.

Both libraries have the same network; transformers keeps query, key and value apart where timm fuses them, and has
called its layers in two ways: up to version 4, and on disk still, ``encoder.layer.0.attention.attention.query``, later
``layers.0.attention.q_proj``. Adapters are found under either.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from timm.layers import resample_abs_pos_embed  # pyright: ignore[reportPrivateImportUsage]
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from ftx.adapters.peft_network import LayerRows, Naming
from ftx.backbones.build import input_size
from ftx.backbones.layer_roles import depth, pretrained_config
from ftx.backbones.timm_config import CONFIG, build_from_config
from ftx.backbones.weights import base_digest, fill_strictly
from ftx.core.errors import ModelError, shown
from ftx.interop.base_folder import SAVE_MODEL_AGAIN, UNFIT, Base, read_weights_of
from ftx.interop.transformers_config import MODEL_TYPES, ModelType, Shape, read_processor

HEAD = "classifier"

# timm's name below a block -> that of transformers, older and newer.
_OLDER = {
    "q": "attention.attention.query",
    "k": "attention.attention.key",
    "v": "attention.attention.value",
    "attn.proj": "attention.output.dense",
}
_NEWER = {
    "q": "attention.q_proj",
    "k": "attention.k_proj",
    "v": "attention.v_proj",
    "attn.proj": "attention.o_proj",
}
_VIT_NORMS = {"norm1": "layernorm_before", "norm2": "layernorm_after"}
_DINO_REST = {
    **{name: name for name in ("norm1", "norm2", "mlp.fc1", "mlp.fc2")},
    "ls1": "layer_scale1",
    "ls2": "layer_scale2",
}
_SWIGLU = {"mlp.fc1": "mlp.weights_in", "mlp.fc2": "mlp.weights_out"}
_SWIGLU_NEWER = {"gate": "mlp.gate_proj", "up": "mlp.up_proj", "mlp.fc2": "mlp.down_proj"}
# What transformers keeps apart -> the layer of timm that it is a piece of, the how-manieth, and of how many.
_PIECES = {
    "q": ("attn.qkv", 0, 3),
    "k": ("attn.qkv", 1, 3),
    "v": ("attn.qkv", 2, 3),
    "gate": ("mlp.fc1", 0, 2),
    "up": ("mlp.fc1", 1, 2),
}
_STEM = {"patch_embed.proj": "embeddings.patch_embeddings.projection", "norm": "layernorm"}


@dataclass(frozen=True)
class _Words:
    """What one release of transformers calls a block, and the layers in it."""

    block: str
    layers: Mapping[str, str]


def _vocabulary(kind: ModelType, swiglu: bool) -> tuple[_Words, _Words]:
    if kind == "vit":
        older = {**_OLDER, **_VIT_NORMS, "mlp.fc1": "intermediate.dense", "mlp.fc2": "output.dense"}
        newer = {**_NEWER, **_VIT_NORMS, "mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2"}
        return _Words("encoder.layer", older), _Words("layers", newer)
    older, newer = {**_OLDER, **_DINO_REST}, {**_NEWER, **_DINO_REST}
    if swiglu:
        newer = {**{ours: theirs for ours, theirs in newer.items() if ours != "mlp.fc1"}, **_SWIGLU_NEWER}
        older |= _SWIGLU
    return _Words("encoder.layer", older), _Words("encoder.layer", newer)


def transformers_folder(folder: Path, config: Mapping[str, object], image_size: int | str) -> Base:
    """Open a ViT or DINOv2 that transformers saved.

    A DINOv2 classifier reads [CLS, mean of patches], which no head of timm does: it is named and left out. At another
    input size the position embedding is resampled as transformers does, without antialias.
    Raises: ModelError for another model type, a config or weights that do not fit; pydantic's ValidationError for a
    config that is invalid.
    """
    if (kind := config["model_type"]) not in MODEL_TYPES:
        raise ModelError(
            f"model_type must be one of {', '.join(MODEL_TYPES)}",
            where=folder / CONFIG,
            found=f"model_type {shown(kind)}",
            fix="give a model of one of these types: `ftx models` lists others",
        )
    shape = Shape.model_validate(config)
    given = read_weights_of(folder)
    words, prefix = _find_words(shape, given, folder)
    module = _empty(shape, folder)
    heads = {f"head.{leaf}": given[f"{HEAD}.{leaf}"] for leaf in ("weight", "bias") if f"{HEAD}.{leaf}" in given}
    try:
        state = dict(_translated(module, given, words, prefix))
    except KeyError as error:
        raise ModelError(UNFIT, where=folder, found=f"no tensor {error.args[0]}", fix=SAVE_MODEL_AGAIN) from error
    unused = (f"{prefix}embeddings.mask_token", f"{prefix}pooler.", f"{HEAD}.")  # no logit depends on them
    if left := sorted(name for name in given if not name.startswith(unused)):
        raise ModelError(
            UNFIT, where=folder, found=f"{len(left)} tensors not of this model ({left[0]})", fix=SAVE_MODEL_AGAIN
        )
    carried = bool(heads) and shape.model_type == "vit"
    if carried:
        module.reset_classifier(len(heads["head.weight"]) if "head.weight" in heads else 0)
        state |= heads
    digest = base_digest(state, ("head",))
    size = input_size(module, image_size, str(folder))
    old_grid, positions = module.patch_embed.grid_size, state["pos_embed"]
    module.set_input_size(img_size=size)
    state["pos_embed"] = resample_abs_pos_embed(
        positions,
        list(module.patch_embed.grid_size),
        list(old_grid),
        num_prefix_tokens=positions.shape[1] - math.prod(old_grid),
        antialias=False,
    )
    fill_strictly(module, state, where=folder, what=UNFIT, fix=SAVE_MODEL_AGAIN)
    apart = "it reads the class token and the mean of the patches, which no head of timm does"
    return Base(
        module.eval(),
        shape.architecture,
        digest,
        read_processor(folder, shape.model_type, size),
        _namings(shape, module),
        model_args=shape.arguments,
        labels=shape.labels if carried else (),
        alien_heads={} if shape.model_type == "vit" else {HEAD: apart},
    )


def _find_words(shape: Shape, given: Mapping[str, Tensor], folder: Path) -> tuple[_Words, str]:
    """The release whose names the file uses, and their prefix. The number of blocks must be that of the config."""
    for words in _vocabulary(shape.model_type, shape.use_swiglu_ffn):
        for prefix in (f"{shape.model_type}.", ""):
            start = f"{prefix}{words.block}."
            if f"{start}0.{words.layers['q']}.weight" in given:
                blocks = {name.removeprefix(start).partition(".")[0] for name in given if name.startswith(start)}
                if blocks != {str(index) for index in range(shape.num_hidden_layers)}:
                    found = f"{len(blocks)} blocks, the config has {shape.num_hidden_layers}"
                    raise ModelError(UNFIT, where=folder, found=found, fix=SAVE_MODEL_AGAIN)
                return words, prefix
    found = ", ".join(sorted(given)[:3])
    raise ModelError(
        f"the weights must have the names of a {shape.model_type} of transformers",
        where=folder,
        found=found,
        fix=SAVE_MODEL_AGAIN,
    )


def _empty(shape: Shape, folder: Path) -> VisionTransformer:
    """An empty timm model of this shape, without a head, that normalises as the base does."""
    module = cast("VisionTransformer", build_from_config(folder, shape.architecture, 0, shape.arguments))
    pretrained_config(module)["input_size"] = 3, shape.image_size, shape.image_size
    for layer in module.modules():
        if isinstance(layer, nn.LayerNorm):
            layer.eps = shape.layer_norm_eps
    return module


def _translated(
    module: VisionTransformer, given: dict[str, Tensor], words: _Words, prefix: str
) -> Iterator[tuple[str, Tensor]]:
    """The backbone's tensors under timm's names, each removed from those that are given."""
    for leaf in ("weight", "bias"):
        for ours, theirs in _STEM.items():
            yield f"{ours}.{leaf}", given.pop(f"{prefix}{theirs}.{leaf}")
    position, token = (given.pop(f"{prefix}embeddings.{name}") for name in ("position_embeddings", "cls_token"))
    if module.no_embed_class:  # timm adds the class token's own position to it
        token, position = token + position[:, :1], position[:, 1:]
        yield "reg_token", given.pop(f"{prefix}embeddings.register_tokens")
    yield "cls_token", token
    yield "pos_embed", position
    for index in range(depth(module)):
        fused: dict[str, list[Tensor]] = {}
        for ours, theirs in words.layers.items():
            block = f"{prefix}{words.block}.{index}.{theirs}"
            if ours in ("ls1", "ls2"):
                yield f"blocks.{index}.{ours}.gamma", given.pop(f"{block}.lambda1")
                continue
            layer, _, pieces = _PIECES.get(ours, (ours, 0, 1))
            for leaf in ("weight", "bias"):
                # Query, key and value may be without a bias.
                if pieces < 3 or f"{block}.{leaf}" in given:
                    fused.setdefault(f"blocks.{index}.{layer}.{leaf}", []).append(given.pop(f"{block}.{leaf}"))
        yield from ((name, torch.cat(tensors)) for name, tensors in fused.items())


def _namings(shape: Shape, module: VisionTransformer) -> list[Naming]:
    """The names of the layers, newer and older, with and without a classifier around them."""
    found: list[Naming] = []
    for words in _vocabulary(shape.model_type, shape.use_swiglu_ffn):
        for prefix in (f"{shape.model_type}.", ""):
            layers = {f"{prefix}{_STEM['patch_embed.proj']}": LayerRows("patch_embed.proj"), HEAD: LayerRows("head")}
            for index in range(depth(module)):
                for ours, theirs in words.layers.items():
                    if not ours.startswith(("norm", "ls")):
                        place = _place(module, f"blocks.{index}", ours)
                        layers[f"{prefix}{words.block}.{index}.{theirs}"] = place
            norms = {
                f"{prefix}{words.block}.{index}.{words.layers[ours]}": f"blocks.{index}.{ours}"
                for index in range(depth(module))
                for ours in ("norm1", "norm2")
            }
            found.append(Naming(layers, {HEAD: "head", f"{prefix}layernorm": "norm", **norms}))
    return found


def _place(module: VisionTransformer, block: str, ours: str) -> LayerRows:
    layer, number, pieces = _PIECES.get(ours, (ours, 0, 1))
    if pieces == 1:
        return LayerRows(f"{block}.{layer}")
    rows = module.get_parameter(f"{block}.{layer}.weight").shape[0] // pieces
    return LayerRows(f"{block}.{layer}", slice(number * rows, (number + 1) * rows))
