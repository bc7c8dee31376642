"""The dense model as a folder that timm (``local-dir:``) and transformers both open."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import torch
from pydantic import ValidationError
from safetensors.torch import save_file
from timm.models.swin_transformer import SwinTransformer
from timm.models.swin_transformer_v2 import SwinTransformerV2
from torch import Tensor, nn

from ftx.backbones.kept_tokens import keep_tokens, kept_fractions
from ftx.backbones.layer_roles import pretrained_config
from ftx.backbones.timm_config import CONFIG, DENSE_WEIGHTS, TimmConfig, build_from_config
from ftx.backbones.weights import read_weights
from ftx.core.disk import disk_faults
from ftx.core.errors import DataError, ExportError, ModelError, first_error
from ftx.core.files import write_atomic
from ftx.core.memory import is_out_of_memory
from ftx.core.untrusted_input import JsonError, read_json
from ftx.data.preprocess import Preprocess, covering, crop_fraction
from ftx.runs.artifacts import DENSE
from ftx.tasks.output_meaning import Meaning

_MERGE = f"run: {DENSE.made_by}"


@dataclass(frozen=True)
class DenseConfig:
    """The content of ``config.json``, next to the weights."""

    architecture: str
    meaning: Meaning | None  # None: a backbone without a head
    preprocess: Preprocess
    # What the architecture's name does not say of the model, as timm.create_model takes it.
    model_args: Mapping[str, object] = field(default_factory=dict[str, object])


def save_dense(module: nn.Module, config: DenseConfig, folder: Path) -> None:
    """Write ``config.json`` and ``model.safetensors`` (f32) into an existing folder."""
    own = pretrained_config(module)
    names = config.meaning.labels.names if config.meaning else ()
    pretrained_cfg = {
        "input_size": [3, config.preprocess.height, config.preprocess.width],
        # Where it is true timm builds the model with img_size, which convolutional networks do not take.
        "fixed_input_size": hasattr(module, "set_input_size") or bool(own.get("fixed_input_size")),
        "interpolation": config.preprocess.interpolation,
        "crop_pct": crop_fraction(config.preprocess),
        "crop_mode": "center",
        "mean": list(config.preprocess.mean),
        "std": list(config.preprocess.std),
        "num_classes": len(names),
        "pool_size": None,
        "first_conv": own.get("first_conv"),
        "classifier": own.get("classifier"),
    }
    document = {
        "architecture": config.architecture,
        "num_classes": len(names),
        "num_features": getattr(module, "num_features", None),
        "global_pool": _pool_name(module),
        "label_names": list(names),
        # num_classes stays out: with it here the transformers wrapper passes it twice.
        "model_args": {**config.model_args, **size_arguments(module, config.preprocess)},
        "pretrained_cfg": pretrained_cfg,
        # timm and transformers pass over what they do not know; another ftx reads the labels' relations here.
        **({"ftx": config.meaning.model_dump(mode="json")} if config.meaning else {}),
        **({"keep_tokens": fractions} if (fractions := kept_fractions(module)) else {}),
    }
    with disk_faults(folder):
        save_file(dense_state(module), folder / DENSE_WEIGHTS, metadata={"format": "pt"})
    write_atomic(folder / CONFIG, (json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode())


def size_arguments(module: nn.Module, pre: Preprocess) -> dict[str, object]:
    """What timm needs to build the model for its input size."""
    if not hasattr(module, "set_input_size"):
        return {}
    size: dict[str, object] = {"img_size": [pre.height, pre.width]}
    if isinstance(module, SwinTransformer | SwinTransformerV2):
        # Their windows grow with the input where it is set, but not where a model is built for it.
        first_blocks = [stage.get_submodule("blocks.0") for stage in module.get_submodule("layers").children()]
        windows = [list(cast("tuple[int, int]", block.window_size)) for block in first_blocks]
        size["window_size"] = windows if any(window != windows[0] for window in windows) else windows[0]
    return size


def dense_state(module: nn.Module) -> dict[str, Tensor]:
    """Every tensor in f32 under each of its names; safetensors takes none that share memory (coat's MLPs do)."""
    state: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in module.state_dict().items():
        plain = tensor.detach().float().cpu().contiguous()
        place = plain.untyped_storage().data_ptr()
        state[name] = plain.clone() if place in seen else plain
        seen.add(place)
    return state


def _pool_name(module: nn.Module) -> str | None:
    """How the head pools; convolutional families keep a layer where others keep the name."""
    pool: object = getattr(module, "global_pool", None)
    name: object = getattr(pool, "pool_type", pool)
    return name if isinstance(name, str) else None


def read_dense_config(folder: Path) -> TimmConfig:
    """The content of ``config.json`` of a dense folder.

    Raises: ExportError if the folder is no dense model, or its config is invalid.
    """
    path = folder / CONFIG
    if not path.is_file():
        raise ExportError("the folder must be a dense model", where=folder, found=f"no {CONFIG}", fix=_MERGE)
    try:
        return TimmConfig.model_validate(read_json(path))
    except JsonError as error:
        raise ExportError(f"{CONFIG} cannot be read", where=path, found=str(error), fix=_MERGE) from error
    except (ValidationError, DataError) as error:  # the second is of the labels
        found = first_error(error) if isinstance(error, ValidationError) else error.what
        raise ExportError(f"{CONFIG} is invalid", where=path, found=found, fix=_MERGE) from error


def read_dense(folder: Path) -> tuple[Preprocess, Meaning]:
    """Preprocessing and meaning of a dense folder that is in no run.

    Raises: ExportError if its config is invalid, or lacks one of them.
    """
    config = read_dense_config(folder)
    cfg, where = config.pretrained_cfg, folder / CONFIG
    if config.ftx is None:
        raise ExportError(f"{CONFIG} is invalid", where=where, found="no labels written by ftx", fix=_MERGE)
    if not (cfg.input_size and cfg.crop_pct and cfg.interpolation and cfg.mean and cfg.std):
        raise ExportError(f"{CONFIG} is invalid", where=where, found="pretrained_cfg is incomplete", fix=_MERGE)
    _, height, width = cfg.input_size
    # A hair less than written: the first ftx left a quotient a rounding below its whole number.
    resize = covering(height, width, cfg.crop_pct * (1 - 1e-9))
    try:
        pre = Preprocess(height, width, resize, cfg.interpolation, cfg.mean, cfg.std)
    except ValueError as error:
        raise ExportError(f"{CONFIG} is invalid", where=where, found=str(error), fix=_MERGE) from error
    return pre, config.ftx


def load_dense(folder: Path, *, all_tokens: bool = False) -> nn.Module:
    """Open a dense folder in f32, for inference; with ``all_tokens`` as timm and transformers open it.

    Raises: ExportError if the folder is no dense model; ModelError if the weights do not fit.
    """
    config = read_dense_config(folder)
    # Built by name with the weights loaded strictly here: "local-dir:" without pretrained=True would
    # give random weights without a word.
    args = {key: value for key, value in config.model_args.items() if key != "num_classes"}
    module = build_from_config(folder, config.architecture, config.num_classes, args)
    try:
        module.load_state_dict(read_weights(folder / DENSE_WEIGHTS), strict=True)
    except RuntimeError as error:
        found = str(error)[:400]
        raise ModelError(
            "the dense weights must fit their architecture", where=folder, found=found, fix=_MERGE
        ) from error
    if config.keep_tokens and not all_tokens:
        keep_tokens(module, config.keep_tokens)
    return module.eval().requires_grad_(False)


def require_fit(module: nn.Module, folder: Path, pre: Preprocess, labels: int) -> None:
    """Run a model on a black image: its config may name another size, or another number of labels, than it has.

    Raises: ExportError if its output is not a logit a label.
    """
    try:
        with torch.inference_mode():
            shape = tuple(module(torch.zeros(1, 3, pre.height, pre.width)).shape)
    except (AssertionError, RuntimeError, ValueError) as error:
        if is_out_of_memory(error):
            raise
        found = f"{pre.image_size} px: {str(error)[:200]}"
        raise ExportError(
            "the dense model must be of the image size in its config", where=folder, found=found, fix=_MERGE
        ) from error
    if shape != (1, labels):
        found = f"an output of {shape}, {labels} labels"
        raise ExportError("the dense model must have one output per label", where=folder, found=found, fix=_MERGE)
