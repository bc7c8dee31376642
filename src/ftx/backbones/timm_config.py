"""``config.json`` of a dense model, which is untrusted input, and the model that timm builds from it.

``timm.create_model`` takes more than a model's shape: where to load from (``checkpoint_path`` runs a pickle, names
begin with ``hf-hub:`` or ``local-dir:``). Only names of timm's own registry and the arguments below ever reach it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import timm
from pydantic import BaseModel, ConfigDict, Field, field_validator
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from ftx.backbones.layer_roles import fix_size
from ftx.core.errors import ModelError, listed, shown
from ftx.core.untrusted_input import LEAST_STD, MOST_DEPTH, MOST_LABELS, MOST_MEAN, MOST_SIDE, MOST_STD, MOST_WIDTH
from ftx.data.preprocess import Interpolation
from ftx.tasks.output_meaning import Meaning

CONFIG = "config.json"
DENSE_WEIGHTS = "model.safetensors"

# Parameters of timm's transformers and convolutional networks that describe the network in plain numbers and words:
# sizes, widths, depths, which parts there are. Those that take classes, functions, configs or another model stay out.
ARGUMENTS = frozenset(
    # of the image and its patches
    """img_size in_chans patch_size patch_sizes patch_stride strides stride patch_norm strict_img_size dynamic_img_size
    dynamic_img_pad ref_feat_shape img_scale pos_embed_grid_size position_embedding_size
    embed_dim embed_dims base_dim base_dims dim dims depth depths depth_mult depth_token_only serial_depths
    parallel_depth transformer_depths num_heads num_kv_heads heads head_dim key_dim hidden_size hidden_sizes
    intermediate_size width width_mult width_factor widths channels layers stages num_blocks
    mlp_ratio mlp_ratios mlp_bias swiglu_mlp swiglu_align_to expand_ratio expansion_ratio ffn_ratio attn_ratio
    qkv_bias qkv_fused qk_norm qk_dim proj_bias attn_type scale_attn_norm scale_attn_inner scale_mlp scale_mlp_norm
    scale_norm sr_ratios linear attn_pool_num_heads attn_pool_mlp_ratio
    init_values layer_scale_init_value layer_scale_init_values ls_init_value layerscale_value res_scale_init_values
    class_token cls_attn_layers no_embed_class reg_tokens num_reg_tokens pre_norm final_norm fc_norm use_fc_norm
    pool_include_prefix use_pre_transformer_norm use_post_transformer_norm use_post_norm embed_norm tokens_norm norm_eps
    pos_embed use_pos_embed use_abs_pos use_abs_pos_emb sep_pos_embed use_rot_pos_emb use_rel_pos use_rel_pos_bias
    use_shared_rel_pos_bias shared_rel_pos rel_pos_type rel_pos_dim use_rope rope_type rope_theta rope_temperature
    rope_rotate_half rope_grid_offset rope_grid_indexing rope_shift_coords rope_jitter_coords rope_rescale_coords
    window_size window_sizes window_ratio window_spec pretrained_window_sizes always_partition shift_size
    mask_unit_size mask_unit_attn q_pool q_stride global_pos_size global_att_blocks global_attn_indexes
    global_block_counts
    drop_rate pos_drop_rate patch_drop_rate proj_drop_rate attn_drop_rate drop_path_rate
    global_pool head_init_scale head_bias head_norm head_norm_first head_hidden_size num_features feature_dim neck_chans
    act_layer norm_layer embed_norm_layer num_classes distilled distillation
    stem_chs stem_width stem_size stem_type stem_stride stem_kernel_size stem_bias stem_norm stem_mid_norm
    kernel_size kernel_sizes down_kernel_size down_pad conv_bias conv_mlp conv_ratio use_grn use_conv groups cardinality
    base_width pool_size output_stride""".split()
)
_NAME = re.compile(r"\w+(?:\.[\w.-]+)?", re.ASCII)
_LONGEST_LIST, _MOST_LEVELS = 1024, 4

_Side = Annotated[int, Field(ge=1, le=MOST_SIDE)]
_Mean = Annotated[float, Field(ge=-MOST_MEAN, le=MOST_MEAN)]
_Std = Annotated[float, Field(ge=LEAST_STD, le=MOST_STD)]


class PretrainedCfg(BaseModel):
    """What is read of ``pretrained_cfg``, each checked where it is given."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)

    input_size: tuple[_Side, _Side, _Side] | None = None
    crop_pct: Annotated[float, Field(ge=0.1, le=1)] | None = None  # timm's own are 0.65 to 1
    interpolation: Interpolation | None = None
    mean: tuple[_Mean, _Mean, _Mean] | None = None
    std: tuple[_Std, _Std, _Std] | None = None


class TimmConfig(BaseModel):
    """What is read of a timm folder's ``config.json``; ``ftx`` is there if ftx wrote it."""

    model_config = ConfigDict(extra="ignore", protected_namespaces=())

    architecture: Annotated[str, Field(max_length=200)]
    num_classes: Annotated[int, Field(ge=0, le=MOST_LABELS)]
    model_args: dict[str, Any] = {}
    label_names: Annotated[list[str], Field(max_length=MOST_LABELS)] | None = None
    pretrained_cfg: PretrainedCfg = PretrainedCfg()
    ftx: Meaning | None = None
    # Of ftx as well: timm and transformers pass over it, and compute with all tokens.
    keep_tokens: dict[Annotated[int, Field(ge=1, le=MOST_DEPTH)], Annotated[float, Field(gt=0, lt=1)]] = {}

    @field_validator("architecture")
    @classmethod
    def _of_timm(cls, name: str) -> str:
        # is_model only looks at the name before the first dot: a tag may follow, a colon or a slash never.
        if not _NAME.fullmatch(name) or not timm.is_model(name):
            raise ValueError(f"timm has no such architecture: {shown(name)}")
        return name

    @field_validator("model_args")
    @classmethod
    def _of_the_model(cls, args: dict[str, Any]) -> dict[str, Any]:
        if others := sorted(key for key in args if key not in ARGUMENTS):
            # Some name a network or a pickle to load from, and do not describe the model.
            names = listed([shown(key, 40) for key in others])
            raise ValueError(f"must contain only arguments of a model's shape, found {names}")
        for key, value in args.items():
            _check_argument(key, value)
        return args


def _check_argument(key: str, value: object, level: int = 0) -> None:
    """Raise ValueError for what no argument of a model is: another type, or out of all bounds."""
    most = MOST_SIDE if key in ("img_size", "ref_feat_shape") else MOST_WIDTH
    if isinstance(value, list) and level < _MOST_LEVELS and len(value) <= _LONGEST_LIST:  # pyright: ignore[reportUnknownArgumentType]
        for one in value:  # pyright: ignore[reportUnknownVariableType]
            _check_argument(key, one, level + 1)
    elif isinstance(value, str):
        if (not value.replace("-", "_").isidentifier() and value) or len(value) > 40:
            raise ValueError(f"{key}: {shown(value)} is not a word")
    elif isinstance(value, int | float):
        if not abs(value) <= most:
            raise ValueError(f"{key}: {shown(value)}, at most {most:,}")
    elif value is not None:
        raise ValueError(f"{key}: {shown(value)} must be a number, a word or a short list of them")


def build_from_config(folder: Path, architecture: str, num_classes: int, args: Mapping[str, Any]) -> nn.Module:
    """The empty model of a folder's config, which has no more numbers than the weights in the folder fill.

    Raises: ModelError if timm cannot build it, or the number of weights shows that they are another model's.
    """
    config = folder / CONFIG
    try:
        with _at_most(_stored_numbers(folder / DENSE_WEIGHTS)):
            module = timm.create_model(architecture, num_classes=num_classes, **args)
    except ModelError as error:
        error.where = error.where or str(config)
        raise
    # Whatever a model's code makes of arguments that no one has tried: it has no one class of errors.
    except (
        ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError,
        NotImplementedError,
    ) as error:  # fmt: skip
        found = f"{type(error).__name__}: {str(error)[:200]}"
        raise ModelError(
            "timm cannot build this model",
            where=config,
            found=found,
            fix="save the model again with the installed version of timm",
        ) from error
    fix_size(module)
    return module


def _stored_numbers(path: Path) -> int:
    """How many numbers a file contains, without reading them.

    Raises: ModelError if it is not there or not a whole safetensors file.
    """
    try:
        with safe_open(path, "pt") as file:
            return sum(math.prod(file.get_slice(key).get_shape()) for key in file.keys())  # noqa: SIM118 - it is no mapping
    except (SafetensorError, OSError) as error:
        raise ModelError(
            "the weights cannot be read", where=path, found=str(error), fix="copy the file again"
        ) from error


@contextmanager
def _at_most(numbers: int) -> Iterator[None]:
    """Stop a model that is being built once it has far more parameters than there are numbers to fill it with.

    ``{"embed_dim": 60000, "depth": 1000}`` would allocate terabytes before the shapes are compared.
    """
    most, counted = 2 * numbers + (1 << 24), 0  # twice: some layers are made twice

    def count(_module: nn.Module, _name: str, parameter: Tensor | None) -> None:
        nonlocal counted
        counted += 0 if parameter is None else parameter.numel()
        if counted > most:
            found = f"its config needs more than {most:,} numbers, the weights have {numbers:,}"
            raise ModelError(
                "the weights must be of this model", found=found, fix="save the weights and config.json together"
            )

    handle = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        handle.remove()
