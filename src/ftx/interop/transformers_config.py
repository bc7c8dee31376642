"""What is read of the configs that transformers writes: the shape of a ViT or DINOv2, and its image processor."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import timm
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ftx.backbones.build import Size
from ftx.core.errors import ModelError, first_error
from ftx.core.untrusted_input import MOST_DEPTH, MOST_LABELS, MOST_SIDE, MOST_WIDTH, JsonError, read_json
from ftx.data.preprocess import Interpolation, Preprocess, covering

ModelType = Literal["vit", "dinov2", "dinov2_with_registers"]
MODEL_TYPES: tuple[ModelType, ...] = get_args(ModelType)
PROCESSOR = "preprocessor_config.json"
_PROCESSOR = "the image processor must be one that ftx can reproduce"
_FIT_PROCESSOR = "copy the file again if it is damaged, or use a model with a usual processor: resize, crop, normalise"

_Count = Annotated[int, Field(ge=1, le=MOST_WIDTH)]
_Blocks = Annotated[int, Field(ge=1, le=MOST_DEPTH)]
_Side = Annotated[int, Field(ge=1, le=MOST_SIDE)]
_Channels = tuple[float, float, float]
_SIZES = {192: "tiny", 384: "small", 768: "base", 1024: "large", 1280: "huge", 1536: "giant"}


class Shape(BaseModel):
    """A ViT or DINOv2 by its ``config.json``."""

    model_config = ConfigDict(extra="ignore", strict=True)

    model_type: ModelType
    hidden_size: _Count
    num_hidden_layers: _Blocks
    num_attention_heads: _Count
    patch_size: _Count
    image_size: _Side
    intermediate_size: _Count | None = None
    mlp_ratio: Annotated[float, Field(gt=0, le=64)] | None = None
    use_swiglu_ffn: bool = False
    qkv_bias: bool = True
    num_register_tokens: _Count | None = None
    hidden_act: Literal["gelu"] = "gelu"  # all that timm's block has
    layer_norm_eps: Annotated[float, Field(gt=0, lt=1)] = 1e-6
    id2label: Annotated[dict[str, str], Field(max_length=MOST_LABELS)] = {}

    @model_validator(mode="after")
    def _whole(self) -> Shape:
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(f"{self.num_attention_heads} heads must divide the width {self.hidden_size}")
        if self.model_type == "vit" and self.intermediate_size is None:
            raise ValueError("intermediate_size is missing (ViT)")
        if self.model_type != "vit" and self.mlp_ratio is None:
            raise ValueError("mlp_ratio is missing (DINOv2)")
        if self.model_type == "dinov2_with_registers" and self.num_register_tokens is None:
            raise ValueError("num_register_tokens is missing")
        return self

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of the classes in the order of their ids; none if the ids are not 0, 1, 2, …"""
        names = [self.id2label.get(str(index)) for index in range(len(self.id2label))]
        return tuple(name for name in names if name is not None) if None not in names else ()

    @property
    def architecture(self) -> str:
        """The timm model of this kind and width, or the one that takes any."""
        size = _SIZES.get(self.hidden_size, "base")
        name = {
            "vit": f"vit_{size}_patch{self.patch_size}_224",
            "dinov2": f"vit_{size}_patch14_dinov2",
            "dinov2_with_registers": f"vit_{size}_patch14_reg{self.num_register_tokens}_dinov2",
        }[self.model_type]
        if self.use_swiglu_ffn:  # the gated MLP has no argument of its own in timm
            return "vit_giant_patch14_dinov2"
        return name if timm.is_model(name) else "vit_base_patch16_224"

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments of timm.create_model for this model."""
        args: dict[str, Any] = {
            "embed_dim": self.hidden_size,
            "depth": self.num_hidden_layers,
            "num_heads": self.num_attention_heads,
            "patch_size": self.patch_size,
            "mlp_ratio": self._mlp_width / self.hidden_size + 1e-9,  # timm takes the floor of the product
            "qkv_bias": self.qkv_bias,
            "img_size": [self.image_size, self.image_size],
        }
        if self.model_type != "vit":
            args["init_values"] = 1.0
        if self.model_type == "dinov2_with_registers":
            args |= {"reg_tokens": self.num_register_tokens, "no_embed_class": True}
        return args

    @property
    def _mlp_width(self) -> int:
        """As timm counts it: both halves of a gated MLP, whose width transformers rounds as DINOv2 does."""
        if self.model_type == "vit":
            return self.intermediate_size or 0
        hidden = int(self.hidden_size * (self.mlp_ratio or 0))
        return 2 * ((hidden * 2 // 3 + 7) // 8 * 8) if self.use_swiglu_ffn else hidden


class _Sides(BaseModel):
    model_config = ConfigDict(extra="ignore")

    shortest_edge: _Side | None = None
    height: _Side | None = None
    width: _Side | None = None


class _Processor(BaseModel):
    """The image processor; keys that ftx's preprocessing cannot follow are errors."""

    model_config = ConfigDict(extra="ignore")

    do_normalize: Literal[True] = True
    do_rescale: Literal[True] = True
    rescale_factor: float = 1 / 255
    resample: Literal[2, 3] = 2  # Pillow's bilinear and bicubic
    image_mean: _Channels
    image_std: _Channels
    size: _Sides | _Side | None = None
    crop_size: _Sides | _Side | None = None
    do_center_crop: bool = False

    @model_validator(mode="after")
    def _as_ftx_computes(self) -> _Processor:
        if not math.isclose(self.rescale_factor, 1 / 255, rel_tol=1e-3):
            raise ValueError(f"rescale_factor must be 1/255, found {self.rescale_factor}")
        return self

    @property
    def crop_share(self) -> float:
        """How much of the short side the centre crop keeps; 1 if the image is squashed instead."""
        if not self.do_center_crop:
            return 1.0
        short, crop = _side(self.size), _side(self.crop_size)
        return min(crop / short, 1.0) if short and crop else 1.0


def _side(sides: _Sides | int | None) -> int | None:
    if sides is None or isinstance(sides, int):
        return sides
    return sides.shortest_edge or sides.height


# What the models were published with, if the folder has no processor: mean, deviation, resampling, fraction kept.
_Published = tuple[_Channels, _Channels, Interpolation, float]
_DINOV2: _Published = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), "bicubic", 224 / 256)
_VIT: _Published = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "bilinear", 1.0)


def read_processor(folder: Path, kind: ModelType, size: Size) -> Preprocess:
    """The preprocessing of a folder's processor, at this input size; ftx crops the centre where ViT's own squashes.

    Raises: ModelError for a processor that ftx's preprocessing cannot follow.
    """
    path = folder / PROCESSOR
    mean, std, interpolation, crop = _VIT if kind == "vit" else _DINOV2
    if path.is_file():
        try:
            processor = _Processor.model_validate(read_json(path))
        except ValidationError as error:
            found = first_error(error)
            raise ModelError(_PROCESSOR, where=path, found=found, fix=_FIT_PROCESSOR) from error
        except (OSError, JsonError) as error:
            raise ModelError(
                "the image processor's config cannot be read", where=path, found=str(error), fix=_FIT_PROCESSOR
            ) from error
        mean, std, crop = processor.image_mean, processor.image_std, processor.crop_share
        interpolation = "bilinear" if processor.resample == 2 else "bicubic"
    height, width = size
    resize = covering(height, width, crop)
    try:
        return Preprocess(height=height, width=width, resize=resize, interpolation=interpolation, mean=mean, std=std)
    except ValueError as error:
        raise ModelError(_PROCESSOR, where=path, found=str(error), fix=_FIT_PROCESSOR) from error
