"""ViT and DINOv2 as the transformers library writes them, as timm models.

Both libraries hold the same network; transformers keeps query, key and value apart where timm fuses them, and has
called its layers in two ways: up to version 4, and on disk still, ``encoder.layer.0.attention.attention.query``, later
``layers.0.attention.q_proj``. Adapters are found under either.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import timm
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from ftx.backbones.build import Size, input_size
from ftx.backbones.dense import CONFIG
from ftx.backbones.digest import base_digest
from ftx.backbones.families import depth, pretrained_config
from ftx.backbones.foundation import UNFIT, Foundation, Naming, Place, read_folder_weights
from ftx.backbones.weights import fill_strictly
from ftx.data.preprocess import Interpolation, Preprocess, covering
from ftx.errors import ModelError

_Channels = tuple[float, float, float]
Kind = Literal["vit", "dinov2", "dinov2_with_registers"]
KINDS: Mapping[Kind, str] = {"vit": "vit", "dinov2": "dinov2", "dinov2_with_registers": "dinov2_with_registers"}
HEAD = "classifier"

_PIL_BICUBIC = 3
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_HALF = (0.5, 0.5, 0.5)
# Mean, deviation and resampling of DINOv2, and of ViT.
_PUBLISHED: tuple[tuple[_Channels, _Channels, Interpolation], tuple[_Channels, _Channels, Interpolation]] = (
    (*_IMAGENET, "bicubic"),
    (_HALF, _HALF, "bilinear"),
)

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


def _vocabulary(kind: Kind, swiglu: bool) -> tuple[_Words, _Words]:
    if kind == "vit":
        older = {**_OLDER, **_VIT_NORMS, "mlp.fc1": "intermediate.dense", "mlp.fc2": "output.dense"}
        newer = {**_NEWER, **_VIT_NORMS, "mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2"}
        return _Words("encoder.layer", older), _Words("layers", newer)
    older, newer = {**_OLDER, **_DINO_REST}, {**_NEWER, **_DINO_REST}
    if swiglu:
        newer = {**{ours: theirs for ours, theirs in newer.items() if ours != "mlp.fc1"}, **_SWIGLU_NEWER}
        older |= _SWIGLU
    return _Words("encoder.layer", older), _Words("encoder.layer", newer)


def transformers_folder(folder: Path, config: Mapping[str, object], image_size: int | str) -> Foundation:
    """Open a ViT or DINOv2 that transformers saved.

    A DINOv2 classifier reads [CLS, mean of patches], which no head of timm does: it is named and left out.
    Raises: ModelError for another model type, an activation that timm's block has not, or weights that do not fit.
    """
    kind, path = str(config["model_type"]), folder / CONFIG
    if kind not in KINDS:
        raise ModelError(
            "this model of transformers is not one that ftx can lay out as timm's",
            where=path,
            found=f"model_type {kind}",
            mend=f"ftx reads {', '.join(KINDS)}",
        )
    known = cast("Kind", kind)
    given = read_folder_weights(folder)
    words, prefix = _find_words(known, config, given, path)
    module, architecture, args = _build(known, config, given, path)
    try:
        state = dict(_translated(module, given, words, prefix))
    except KeyError as error:
        raise ModelError("the weights lack a tensor", where=folder, found=str(error.args[0])) from error
    head = {name.removeprefix(f"{HEAD}."): given[name] for name in given if name.startswith(f"{HEAD}.")}
    alien: dict[str, str] = {}
    if known != "vit":
        alien[HEAD] = "it reads the class token beside the mean of the patches, which no head of timm does"
    elif head:
        module.reset_classifier(len(head["weight"]))
        state |= {f"head.{name}": tensor for name, tensor in head.items()}
    fill_strictly(module, state, where=folder, what=UNFIT)
    digest = base_digest(state, ("head",))
    size = input_size(module, image_size, str(folder))
    module.set_input_size(img_size=size)
    labels = config.get("id2label") or {}
    names = tuple(str(name) for name in cast("dict[object, object]", labels).values()) if head else ()
    return Foundation(
        module.eval(),
        architecture,
        digest,
        _preprocess(folder, known, size),
        _namings(known, module, bool(config.get("use_swiglu_ffn"))),
        model_args=args,
        labels=() if alien else names,
        alien_heads=alien,
    )


def _find_words(
    kind: Kind, config: Mapping[str, object], given: Mapping[str, Tensor], path: Path
) -> tuple[_Words, str]:
    """The release whose names the file uses, and what stands before them."""
    for words in _vocabulary(kind, bool(config.get("use_swiglu_ffn"))):
        for prefix in (f"{KINDS[kind]}.", ""):
            if f"{prefix}{words.block}.0.{words.layers['q']}.weight" in given:
                return words, prefix
    found = ", ".join(sorted(given)[:3])
    raise ModelError(f"the weights are not laid out as a {kind} of transformers", where=path, found=found)


def _build(
    kind: Kind, config: Mapping[str, object], given: Mapping[str, Tensor], path: Path
) -> tuple[VisionTransformer, str, dict[str, Any]]:
    """An empty timm model of this shape, without a head."""
    swiglu, activation = bool(config.get("use_swiglu_ffn")), config.get("hidden_act", "gelu")
    if activation != "gelu":
        raise ModelError("timm's block has another activation", where=path, found=f"hidden_act {activation}")
    width, patch = _number(config, "hidden_size", path), _number(config, "patch_size", path)
    size = {192: "tiny", 384: "small", 768: "base", 1024: "large", 1280: "huge", 1536: "giant"}.get(width, "base")
    architecture = f"vit_{size}_patch{patch}_224" if kind == "vit" else f"vit_{size}_patch14_dinov2"
    if swiglu or not timm.is_model(architecture):
        architecture = "vit_giant_patch14_dinov2" if swiglu else "vit_base_patch16_224"
    if kind == "vit":
        ratio = _number(config, "intermediate_size", path) / width
    else:
        hidden = int(width * _number(config, "mlp_ratio", path))
        # transformers rounds the gated MLP's width as DINOv2 does; timm counts both of its halves.
        ratio = 2 * ((hidden * 2 // 3 + 7) // 8 * 8) / width if swiglu else hidden / width
    side = _number(config, "image_size", path)
    args: dict[str, Any] = {  # what timm takes
        "embed_dim": width,
        "depth": _number(config, "num_hidden_layers", path),
        "num_heads": _number(config, "num_attention_heads", path),
        "patch_size": patch,
        "mlp_ratio": ratio + 1e-9,  # timm takes the floor of the product
        "qkv_bias": bool(config.get("qkv_bias", True)),
        "img_size": [side, side],
    }
    if kind != "vit":
        args["init_values"] = 1.0
    if kind == "dinov2_with_registers":
        args |= {"reg_tokens": _number(config, "num_register_tokens", path), "no_embed_class": True}
    module = cast("VisionTransformer", timm.create_model(architecture, num_classes=0, **args))
    setattr(module, "pretrained_cfg", {**pretrained_config(module), "input_size": (3, side, side)})  # noqa: B010
    eps = config.get("layer_norm_eps", 1e-6)
    for layer in module.modules():
        if isinstance(layer, nn.LayerNorm) and isinstance(eps, float):
            layer.eps = eps
    return module, architecture, args


def _translated(
    module: VisionTransformer, given: Mapping[str, Tensor], words: _Words, prefix: str
) -> Iterator[tuple[str, Tensor]]:
    """The backbone's tensors under timm's names."""
    for leaf in ("weight", "bias"):
        for ours, theirs in _STEM.items():
            yield f"{ours}.{leaf}", given[f"{prefix}{theirs}.{leaf}"]
    position, token = given[f"{prefix}embeddings.position_embeddings"], given[f"{prefix}embeddings.cls_token"]
    if module.no_embed_class:  # timm adds the class token's own position to it
        token, position = token + position[:, :1], position[:, 1:]
        yield "reg_token", given[f"{prefix}embeddings.register_tokens"]
    yield "cls_token", token
    yield "pos_embed", position
    for index in range(depth(module)):
        fused: dict[str, list[Tensor]] = {}
        for ours, theirs in words.layers.items():
            block = f"{prefix}{words.block}.{index}.{theirs}"
            if ours in ("ls1", "ls2"):
                yield f"blocks.{index}.{ours}.gamma", given[f"{block}.lambda1"]
                continue
            layer, _, pieces = _PIECES.get(ours, (ours, 0, 1))
            for leaf in ("weight", "bias"):
                # Query, key and value may be without a bias.
                if pieces < 3 or f"{block}.{leaf}" in given:
                    fused.setdefault(f"blocks.{index}.{layer}.{leaf}", []).append(given[f"{block}.{leaf}"])
        yield from ((name, torch.cat(tensors)) for name, tensors in fused.items())


def _namings(kind: Kind, module: VisionTransformer, swiglu: bool) -> list[Naming]:
    """What the layers are called, newer and older, with and without a classifier around them."""
    found: list[Naming] = []
    for words in _vocabulary(kind, swiglu):
        for prefix in (f"{KINDS[kind]}.", ""):
            layers = {f"{prefix}{_STEM['patch_embed.proj']}": Place("patch_embed.proj"), HEAD: Place("head")}
            for index in range(depth(module)):
                for ours, theirs in words.layers.items():
                    if not ours.startswith(("norm", "ls")):
                        place = _place(module, f"blocks.{index}", ours)
                        layers[f"{prefix}{words.block}.{index}.{theirs}"] = place
            found.append(Naming(layers, {HEAD: "head", f"{prefix}layernorm": "norm"}))
    return found


def _place(module: VisionTransformer, block: str, ours: str) -> Place:
    layer, number, pieces = _PIECES.get(ours, (ours, 0, 1))
    if pieces == 1:
        return Place(f"{block}.{layer}")
    rows = module.get_parameter(f"{block}.{layer}.weight").shape[0] // pieces
    return Place(f"{block}.{layer}", slice(number * rows, (number + 1) * rows))


def _number(config: Mapping[str, object], key: str, path: Path) -> int:
    value = config.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ModelError(f"config.json has no number for {key}", where=path, found=str(value))
    return value


def _preprocess(folder: Path, kind: Kind, size: Size) -> Preprocess:
    """What preprocessor_config.json says of normalisation, or what these models were published with.

    ftx brings the short side to size and crops the centre; ViT's own processor squashes the image instead.
    """
    mean, std, interpolation = _PUBLISHED[kind == "vit"]
    try:
        config = json.loads((folder / "preprocessor_config.json").read_bytes())
        mean, std = _three(config["image_mean"]), _three(config["image_std"])
        interpolation = "bicubic" if config.get("resample", 2) == _PIL_BICUBIC else "bilinear"
    except FileNotFoundError:
        pass
    except (OSError, ValueError, KeyError, TypeError) as error:
        path = folder / "preprocessor_config.json"
        raise ModelError("the image processor's config does not hold", where=path, found=str(error)) from error
    height, width = size
    resize = covering(height, width, 1.0)
    return Preprocess(height=height, width=width, resize=resize, interpolation=interpolation, mean=mean, std=std)


def _three(values: Sequence[float]) -> tuple[float, float, float]:
    red, green, blue = values
    return float(red), float(green), float(blue)
