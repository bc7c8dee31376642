"""The model that adapters from elsewhere are laid over: a timm name, a timm folder, or a folder of transformers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationError

from ftx.backbones.build import Backbone, build, input_size, preprocess_of, pretrained_size, take_size
from ftx.backbones.layer_roles import head_names, pretrained_config
from ftx.backbones.timm_config import CONFIG, DENSE_WEIGHTS, TimmConfig, build_from_config
from ftx.backbones.weights import base_digest, fill_strictly, take_grey
from ftx.core.errors import DataError, ModelError, first_error
from ftx.interop.base_folder import SAVE_MODEL_AGAIN, UNFIT, Base, read_config, read_weights_of
from ftx.interop.transformers_vit import transformers_folder


def open_base(base: str, *, weights: str = "auto", image_size: int | str = "auto") -> Base:
    """Open the base that ``--base`` names: a folder if there is one of this name, else a model of timm.

    Raises: ModelError if it cannot be understood; EnvironmentFault if its weights cannot be fetched.
    """
    folder = Path(base)
    if not folder.is_dir():
        if "/" in base or base.startswith("."):
            raise ModelError(
                "--base must be a folder that exists, or the name of a model",
                where=folder,
                fix="check the path, or run `ftx models` to list names",
            )
        built = build(base, weights=weights, num_classes=0, image_size=image_size, seed=0)
        return of_backbone(built)
    config = read_config(folder)
    try:
        if "architecture" in config:
            return _timm_folder(folder, config, image_size)
        if "model_type" in config:
            return transformers_folder(folder, config, image_size)
    except (ValidationError, DataError) as error:  # the second is of the labels
        found = first_error(error) if isinstance(error, ValidationError) else error.what
        raise ModelError(
            "the model's config is invalid", where=folder / CONFIG, found=found, fix=SAVE_MODEL_AGAIN
        ) from error
    raise ModelError(
        "--base must be a model of timm or transformers",
        where=folder / CONFIG,
        found="neither an architecture of timm nor a model_type of transformers",
        fix="give a folder that timm, `ftx merge` or transformers wrote, or a name from `ftx models`",
    )


def of_backbone(backbone: Backbone) -> Base:
    """The base that a recipe names."""
    return Base(backbone.module, backbone.architecture, backbone.digest, backbone.preprocess)


def _timm_folder(folder: Path, document: Mapping[str, object], image_size: int | str) -> Base:
    config = TimmConfig.model_validate(document)
    # A model on grey images is widened to RGB, as weights from a file are.
    args = {key: value for key, value in config.model_args.items() if key not in ("in_chans", "num_classes")}
    state = read_weights_of(folder)
    module = build_from_config(folder, config.architecture, config.num_classes, args)
    grey = take_grey(module, state, folder / DENSE_WEIGHTS)
    fill_strictly(module, state, where=folder, what=UNFIT, fix=SAVE_MODEL_AGAIN)
    pretrained_config(module).update(config.pretrained_cfg.model_dump(exclude_none=True))
    size = pretrained_size(module) if image_size == "auto" else input_size(module, image_size, str(folder))
    take_size(module, size, str(folder))
    try:
        preprocess = preprocess_of(module, size, grey=grey)
    except ValueError as error:
        raise ModelError(
            "the model's config is invalid", where=folder / CONFIG, found=str(error), fix=SAVE_MODEL_AGAIN
        ) from error
    return Base(
        module.eval(),
        config.architecture,
        base_digest(state, head_names(module)),
        preprocess,
        model_args=args,
        labels=tuple(config.label_names or ()),
    )
