"""A model that adapters are laid over, and what every folder of one has: its config and its weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from torch import Tensor, nn

from ftx.adapters.peft_network import Naming
from ftx.backbones.timm_config import CONFIG, DENSE_WEIGHTS
from ftx.backbones.weights import read_weights
from ftx.core.errors import ModelError
from ftx.core.untrusted_input import JsonError, read_json
from ftx.data.preprocess import Preprocess

UNFIT = "the weights must fit config.json"
SAVE_MODEL_AGAIN = "save the model again with timm, `ftx merge` or transformers"


@dataclass(frozen=True)
class Base:
    """A timm model with the weights that adapters were trained on.

    ``namings`` are what their library may call its layers; none if that is timm itself. ``alien_heads`` are heads of
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


def read_config(folder: Path) -> dict[str, object]:
    """``config.json`` of a model folder.

    Raises: ModelError if there is none, or it is no JSON mapping.
    """
    path = folder / CONFIG
    try:
        config = read_json(path)
    except FileNotFoundError:
        found = ", ".join(sorted(one.name for one in folder.iterdir())[:6]) or "an empty folder"
        raise ModelError(
            "the folder must be a model", where=folder, found=f"no {CONFIG}; {found}", fix=SAVE_MODEL_AGAIN
        ) from None
    except (OSError, JsonError) as error:
        raise ModelError(
            "the model's config cannot be read", where=path, found=str(error), fix=SAVE_MODEL_AGAIN
        ) from error
    if not isinstance(config, dict):
        raise ModelError(
            "the model's config must be a JSON object",
            where=path,
            found=type(config).__name__,
            fix=SAVE_MODEL_AGAIN,
        )
    return cast("dict[str, object]", config)


def read_weights_of(folder: Path) -> dict[str, Tensor]:
    """The tensors of a model folder, as f32.

    Raises: ModelError if there is no whole safetensors file.
    """
    path = folder / DENSE_WEIGHTS
    if not path.is_file():
        found = ", ".join(sorted(one.name for one in folder.iterdir())[:6])
        fix = "save it again as one safetensors file: .bin and .pth can run code, so ftx does not read them"
        raise ModelError(f"the folder must contain {DENSE_WEIGHTS}", where=folder, found=found, fix=fix)
    return read_weights(path)
