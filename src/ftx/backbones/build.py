"""A timm model with its pretrained weights, at the given input size, with a head for the given number of classes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import timm
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from ftx.backbones.architecture_table import read_architectures
from ftx.backbones.kept_tokens import ALL_TOKENS, TokenFractions, keep_tokens
from ftx.backbones.layer_roles import fix_size, head_names, plain_vit, pretrained_config, token_shape
from ftx.backbones.weights import base_digest, fetch_pretrained, fill_strictly, grey_level, read_weights, take_grey
from ftx.core.errors import EnvironmentFault, ModelError, nearest, of_the_same_parts, shown
from ftx.core.memory import available_bytes
from ftx.core.shipped_files import BUNDLED, bundled_weights
from ftx.data.preprocess import Preprocess, covering

# Height and width, or patches down and across.
Size = tuple[int, int]

# Models whose pretrained size is too slow for this use, and the size that "auto" means instead.
AUTO_SIZE = {(518, 518): (224, 224)}

# timm marks these classes as of one size, and they compute at others: xcit takes sines of the positions, twins
# convolves for them, sequencer and swiftformer have none. What cait, pit, tnt, volo, coat and nest learned for each
# position they do not resample; crossvit scales the image back to its own size instead.
_ANY_SIZE = frozenset({"Xcit", "Twins", "Sequencer2d", "SwiftFormer"})


@dataclass(frozen=True)
class Backbone:
    """A model ready to be adapted: f32, head fresh, position embedding resampled once."""

    module: nn.Module
    architecture: str
    digest: str
    preprocess: Preprocess


def build(
    name: str,
    *,
    weights: str,
    num_classes: int,
    image_size: int | str,
    seed: int,
    token_fractions: TokenFractions = ALL_TOKENS,
) -> Backbone:
    """Build ``name`` (an embedded alias or any timm name of a known family).

    ``weights``: ``auto`` (embedded, else the hub), ``none`` (random, by ``seed``) or a safetensors file. A file made on
    grey images, whose first convolution has one channel, gives a model in RGB that computes what the grey one computes
    on 0.299 R + 0.587 G + 0.114 B; its digest is that of the weights in RGB. ``token_fractions`` sets how many tokens
    ``ftx.backbones.kept_tokens`` keeps.
    Raises: ModelError for an unknown model, an input size that the patches do not divide, or weights
    that do not fit; EnvironmentFault if the hub cannot be reached.
    """
    architecture = resolve(name)
    _require_memory(architecture, name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = timm.create_model(architecture, num_classes=0)
        grey = _load(module, name, architecture, weights)
        heads = head_names(module)
        if not heads:
            raise ModelError(
                "model.name must be a model with a classifier",
                where="model.name",
                found=f"{name}, which timm has only as an encoder",
                fix="run `ftx models` to list models with a classifier",
            )
        digest = base_digest(module.state_dict(), heads)
        size = input_size(module, image_size, name)
        take_size(module, size, name)
        cast("VisionTransformer", module).reset_classifier(num_classes)  # as every classifier of timm
        if plain_vit(module) is None and math.prod(size) < math.prod(pretrained_size(module)):
            _require_computes(module.eval(), size, name)
    if token_fractions:
        keep_tokens(module, token_fractions)
    pre = preprocess_of(module, size, grey=grey)
    return Backbone(module=module.eval(), architecture=architecture, digest=digest, preprocess=pre)


def _require_memory(architecture: str, name: str) -> None:
    """Raise EnvironmentFault if a model's parameters need more memory than the machine has left."""
    bare = architecture.partition(".")[0]
    known = next((one for one in read_architectures().architectures if one.architecture == bare), None)
    if known is not None and 4 * known.parameters > (free := available_bytes()):
        raise EnvironmentFault(
            f"there is not enough memory for {shown(name)}",
            found=f"{4 * known.parameters / 1e9:.1f} GB of parameters, {free / 1e9:.1f} GB free",
            fix="choose a smaller --model: `ftx models` lists their sizes",
        )


def resolve(name: str) -> str:
    """The timm architecture that a name stands for.

    Raises: ModelError naming the nearest known model.
    """
    if name in BUNDLED:
        return BUNDLED[name][0]
    bare = name.split(".")[0]
    if not timm.is_model(bare):
        known = [*BUNDLED, *timm.list_models()]
        alike = of_the_same_parts(name, known) or nearest(name, known)
        holding = [one for one in known if name in one]
        found = f"nearest: {alike}" if alike else f"{len(known)} known models, none with a similar name"
        if holding:
            found = f"{len(holding)} names contain it: {', '.join(holding[:3])}{', …' if len(holding) > 3 else ''}"
        fix = f"run `ftx models {name}`" if holding and name else f"run again with --model {alike or 'dinov2-small'}"
        raise ModelError(f"the model {shown(name)} does not exist", found=found, fix=fix)
    if bare != name and name not in (tagged := timm.list_pretrained(f"{bare}.*")):
        alike = nearest(name, tagged)
        raise ModelError(
            f"the pretrained weights {shown(name)} do not exist",
            found=f"nearest: {alike}" if alike else f"of {bare} there are {', '.join(tagged) or 'none'}",
            fix=f"run again with --model {alike or bare}",
        )
    return name


def tagged(name: str) -> str:
    """The name with the tag of the pretrained weights that timm means by it today; as it is if timm has none."""
    if name in BUNDLED:
        return name
    config = timm.get_pretrained_cfg(name)
    return f"{config.architecture}.{config.tag}" if config is not None and config.tag else name


def take_size(module: nn.Module, size: Size, name: str) -> None:
    """Build the model for this input size, its position embedding resampled once.

    Raises: ModelError if the family takes no other size than its own, or not this one.
    """
    if hasattr(module, "set_input_size"):
        try:
            cast("VisionTransformer", module).set_input_size(img_size=size)
        except (AssertionError, RuntimeError, ValueError) as error:
            raise ModelError(
                f"data.image_size must be a size that {name} supports",
                where="data.image_size",
                found=f"{_text(size)} px: {str(error)[:120]}",
                fix=f"run again with --image-size {_text(pretrained_size(module))}",
            ) from error
        fix_size(module)
        return
    own = pretrained_size(module)
    if size != own and not takes_other_sizes(module):
        raise ModelError(
            f"data.image_size must be the one size that {name} supports",
            where="data.image_size",
            found=f"{_text(size)} px",
            fix=f"run again with --image-size {_text(own)}",
        )


def _require_computes(module: nn.Module, size: Size, name: str) -> None:
    """Raise ModelError if an image of this size is too small for the pyramids and strides."""
    try:
        with torch.inference_mode():
            module(torch.zeros(1, 3, *size))
    except (RuntimeError, ValueError, AssertionError) as error:
        raise ModelError(
            f"data.image_size must be a size at which {name} can run",
            where="data.image_size",
            found=f"{_text(size)} px: {str(error)[:120]}",
            fix=f"run again with larger images, up to --image-size {_text(pretrained_size(module))}",
        ) from error


def takes_other_sizes(module: nn.Module) -> bool:
    """Whether the family computes at other input sizes than that of its weights."""
    fixed = pretrained_config(module).get("fixed_input_size") and type(module).__name__ not in _ANY_SIZE
    return hasattr(module, "set_input_size") or not fixed


def _load(module: nn.Module, name: str, architecture: str, weights: str) -> bool:
    """Fill the model; whether its weights were made on grey images."""
    if weights == "none":
        return False
    file = bundled_weights(name) if weights == "auto" else Path(weights)
    if file is None:
        module.load_state_dict(fetch_pretrained(architecture))
        return False
    known = module.state_dict().keys()
    # Without the modules around a head: levit normalises before its last layer.
    heads = {name.partition(".")[0] for name in head_names(module)}
    state = {
        key: tensor for key, tensor in read_weights(file).items() if key in known or key.partition(".")[0] not in heads
    }
    if (vit := plain_vit(module)) is not None:
        _follow_grid(vit, state)
    grey = take_grey(module, state, file)
    fill_strictly(
        module,
        state,
        where=file,
        what=f"the weights must fit {architecture}",
        fix="give the --model that the weights are of",
    )
    return grey


def _follow_grid(module: VisionTransformer, state: dict[str, Tensor]) -> None:
    """Give the model the patch grid of the file, so that its position embedding fits as it is."""
    position = state.get("pos_embed")
    tokens, _ = token_shape(module)
    if position is None or position.ndim != 3 or position.shape[1] == tokens:
        return
    prefix = tokens - math.prod(module.patch_embed.grid_size)
    side = math.isqrt(max(position.shape[1] - prefix, 0))
    if side > 0 and side**2 == position.shape[1] - prefix:
        height, width = module.patch_embed.patch_size
        module.set_input_size(img_size=(side * height, side * width))


def pretrained_size(module: nn.Module) -> Size:
    """The size of the images that the weights were made with."""
    _, height, width = cast("tuple[int, int, int]", pretrained_config(module)["input_size"])
    return height, width


def input_size(module: nn.Module, image_size: int | str, name: str) -> Size:
    """The size that a recipe's ``data.image_size`` means for this model.

    Raises: ModelError naming the nearest sizes that the patches divide.
    """
    if image_size == "auto":
        pretrained = pretrained_size(module)
        return AUTO_SIZE.get(pretrained, pretrained)
    height, _, width = str(image_size).partition("x")
    size = int(height), int(width or height)
    vit = plain_vit(module)
    if vit is None:
        return size
    patch = cast("Size", tuple(vit.patch_embed.patch_size))
    if any(side % of for side, of in zip(size, patch, strict=True)):
        below = cast("Size", tuple(max(side // of, 1) * of for side, of in zip(size, patch, strict=True)))
        above = cast("Size", tuple(-(-side // of) * of for side, of in zip(size, patch, strict=True)))
        raise ModelError(
            f"data.image_size must be a multiple of the patch size of {name}",
            where="data.image_size",
            found=f"{_text(size)} px, patches of {_text(patch)} px",
            fix=f"run again with --image-size {_text(below)}" + (f" or {_text(above)}" if above != below else ""),
        )
    return size


def _text(size: Size) -> str:
    height, width = size
    return str(height) if height == width else f"{height}x{width}"


def preprocess_before(name: str, image_size: int | str) -> Preprocess:
    """The preprocessing of a model of this name, before there is one: its module is built without memory.

    Raises: ModelError for an unknown model, or an input size that the patches do not divide.
    """
    with torch.device("meta"):
        module = timm.create_model(resolve(name), num_classes=0)
    return preprocess_of(module, input_size(module, image_size, name))


def preprocess_of(module: nn.Module, size: Size, *, grey: bool = False) -> Preprocess:
    """The evaluation transform that the weights were made with, at this input size.

    Raises: ModelError for a model whose transform pads images to its input.
    """
    config = pretrained_config(module)
    height, width = size
    crop = float(str(config["crop_pct"]))
    if crop > 1:
        raise ModelError(
            "the model must not need padded images, which ftx does not make",
            where=str(config.get("architecture", "")),
            found=f"a crop of {crop:g} times the resized image",
            fix="choose another model of the family: ftx models FAMILY",
        )
    mean, std = (_levels(config[name]) for name in ("mean", "std"))
    if grey:
        mean, std = grey_level(mean), grey_level(std)
    return Preprocess(
        height=height,
        width=width,
        resize=covering(height, width, crop),
        interpolation=config["interpolation"],  # pyright: ignore[reportArgumentType]
        mean=mean,
        std=std,
    )


def _levels(values: object) -> tuple[float, float, float]:
    red, green, blue = cast("Sequence[float]", values)
    return red, green, blue
