"""The dense model as a folder that timm (``local-dir:``) and transformers both open."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import timm
from safetensors.torch import load_file, save_file
from timm.models.swin_transformer import SwinTransformer
from timm.models.swin_transformer_v2 import SwinTransformerV2
from torch import Tensor, nn

from ftx.backbones.families import pretrained_config
from ftx.data.preprocess import Preprocess, crop_share
from ftx.errors import ExportError, ModelError
from ftx.files import disk_faults, write_atomic
from ftx.tasks import Meaning

WEIGHTS = "model.safetensors"
CONFIG = "config.json"


@dataclass(frozen=True)
class DenseConfig:
    """What ``config.json`` says beside the weights."""

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
        "crop_pct": crop_share(config.preprocess),
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
    }
    with disk_faults(folder):
        save_file(dense_state(module), folder / WEIGHTS, metadata={"format": "pt"})
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


def load_dense(folder: Path) -> nn.Module:
    """Open a dense folder in f32, for inference.

    Raises: ExportError if the folder is no dense model; ModelError if the weights do not fit.
    """
    path = folder / CONFIG
    if not path.is_file():
        raise ExportError("this folder is no dense model", where=folder, found=f"no {CONFIG}", mend="run: ftx merge")
    document = json.loads(path.read_bytes())
    # Built by name with the weights loaded strictly here: "local-dir:" without pretrained=True would
    # give random weights without a word.
    module = timm.create_model(document["architecture"], num_classes=document["num_classes"], **document["model_args"])
    try:
        module.load_state_dict(load_file(folder / WEIGHTS), strict=True)
    except RuntimeError as error:
        raise ModelError("the dense weights do not fit their architecture", where=folder, found=str(error)) from error
    return module.eval().requires_grad_(False)
