"""The model that adapters from elsewhere are laid over: a timm name, a timm folder, or a folder of transformers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from pydantic import ValidationError
from torch import Tensor, nn

from ftx.adapters.naming import Naming
from ftx.backbones.build import Backbone, build, input_size, preprocess_of, pretrained_size, take_size
from ftx.backbones.digest import base_digest
from ftx.backbones.grey_weights import take_grey
from ftx.backbones.layer_roles import head_names, pretrained_config
from ftx.backbones.timm_config import CONFIG, TimmConfig, build_from_config
from ftx.backbones.weights import fill_strictly, read_weights
from ftx.core.errors import DataError, ModelError
from ftx.core.pydantic_errors import first_error
from ftx.core.strict_json import JsonError, read_json
from ftx.data.preprocess import Preprocess
from ftx.runs.dense import DENSE_WEIGHTS

UNFIT = "the weights do not fit what config.json says"


@dataclass(frozen=True)
class Base:
    """A timm model with the weights that adapters were trained on.

    ``namings`` are what their library may call its layers; none where that is timm itself. ``alien_heads`` are heads of
    the base that no model of timm can have, by the name that they have there, each with the reason.
    """

    module: nn.Module
    architecture: str
    digest: str
    preprocess: Preprocess
    namings: Sequence[Naming] = ()
    model_args: Mapping[str, Any] = field(default_factory=dict[str, Any])
    labels: tuple[str, ...] = ()
    alien_heads: Mapping[str, str] = field(default_factory=dict[str, str])


def open_base(base: str, *, weights: str = "auto", image_size: int | str = "auto") -> Base:
    """Open the base that ``--base`` names: a folder if there is one of this name, else a model of timm.

    Raises: ModelError if it cannot be understood; EnvironmentFault if its weights cannot be fetched.
    """
    folder = Path(base)
    if not folder.is_dir():
        if "/" in base or base.startswith("."):
            raise ModelError("there is no such folder", where=folder, fix="--base NAME takes a name of `ftx models`")
        built = build(base, weights=weights, num_classes=0, image_size=image_size, seed=0)
        return of_backbone(built)
    config = read_config(folder)
    try:
        if "architecture" in config:
            return _timm_folder(folder, config, image_size)
        if "model_type" in config:
            from ftx.interop.transformers_vit import transformers_folder

            return transformers_folder(folder, config, image_size)
    except ValidationError as error:
        found = first_error(error)
        raise ModelError("the model's config does not hold", where=folder / CONFIG, found=found) from error
    except DataError as error:  # its labels
        raise ModelError("the model's config does not hold", where=folder / CONFIG, found=error.what) from error
    raise ModelError(
        "this folder is no model that ftx knows",
        where=folder / CONFIG,
        found="neither an architecture of timm nor a model_type of transformers",
        fix="name a folder that timm, ftx merge or transformers wrote, or a name of `ftx models`",
    )


def of_backbone(backbone: Backbone) -> Base:
    """The base that a recipe names."""
    return Base(backbone.module, backbone.architecture, backbone.digest, backbone.preprocess)


def read_config(folder: Path) -> dict[str, object]:
    """``config.json`` of a model folder.

    Raises: ModelError if there is none, or it is no JSON mapping.
    """
    path = folder / CONFIG
    try:
        config = read_json(path)
    except FileNotFoundError:
        found = ", ".join(sorted(one.name for one in folder.iterdir())[:6]) or "an empty folder"
        raise ModelError("this folder is no model", where=folder, found=f"no {CONFIG}; {found}") from None
    except (OSError, JsonError) as error:
        raise ModelError("the model's config cannot be read", where=path, found=str(error)) from error
    if not isinstance(config, dict):
        raise ModelError("the model's config is no mapping", where=path)
    return cast("dict[str, object]", config)


def read_weights_of(folder: Path) -> dict[str, Tensor]:
    """The tensors of a model folder, as f32.

    Raises: ModelError if there is no whole safetensors file.
    """
    path = folder / DENSE_WEIGHTS
    if not path.is_file():
        found = ", ".join(sorted(one.name for one in folder.iterdir())[:6])
        fix = "save it again as one safetensors file; .bin and .pth are not read, as they can run code"
        raise ModelError(f"there is no {DENSE_WEIGHTS}", where=folder, found=found, fix=fix)
    return read_weights(path)


def _timm_folder(folder: Path, document: Mapping[str, object], image_size: int | str) -> Base:
    config = TimmConfig.model_validate(document)
    # A model on grey images is widened to RGB, as weights from a file are; the classes stand beside.
    args = {key: value for key, value in config.model_args.items() if key not in ("in_chans", "num_classes")}
    state = read_weights_of(folder)
    module = build_from_config(
        config.architecture, config.num_classes, args, config=folder / CONFIG, weights=folder / DENSE_WEIGHTS
    )
    grey = take_grey(module, state, folder / DENSE_WEIGHTS)
    fill_strictly(module, state, where=folder, what=UNFIT)
    stated = {**pretrained_config(module), **config.pretrained_cfg.model_dump(exclude_none=True)}
    setattr(module, "pretrained_cfg", stated)  # noqa: B010 - nn.Module types its attributes as tensors
    size = pretrained_size(module) if image_size == "auto" else input_size(module, image_size, str(folder))
    take_size(module, size, str(folder))
    try:
        preprocess = preprocess_of(module, size, grey=grey)
    except ValueError as error:
        raise ModelError("the model's config does not hold", where=folder / CONFIG, found=str(error)) from error
    return Base(
        module.eval(),
        config.architecture,
        base_digest(state, head_names(module)),
        preprocess,
        model_args=args,
        labels=tuple(config.label_names or ()),
    )
