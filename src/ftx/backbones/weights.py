"""Where pretrained weights come from when they do not travel with ftx: a file, or the hub."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import timm
import torch
from huggingface_hub import constants
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ftx.core.errors import EnvironmentFault, ModelError

WAYS_OUT = "--weights FILE.safetensors (from a disk), --weights none (random), or --model dinov2-small (embedded)"


def read_weights(file: Path) -> dict[str, Tensor]:
    """Tensors of a safetensors file, as f32.

    Raises: ModelError if it is not there or not a whole safetensors file.
    """
    if not file.is_file():
        raise ModelError("there is no such weights file", where=file, fix=WAYS_OUT)
    try:
        return {name: tensor.float() for name, tensor in load_file(file).items()}
    except SafetensorError as error:
        raise ModelError(
            "the weights file is not a whole safetensors file",
            where=file,
            found=str(error),
            fix="copy it again; files of other formats (.pth, .bin) are not read, as they can run code",
        ) from error


@contextmanager
def _without_retries() -> Iterator[None]:
    """Where the hub's name is unknown, let its library look into its cache alone: it would try for 50 s and talk."""
    offline = constants.HF_HUB_OFFLINE
    try:
        socket.getaddrinfo(urlsplit(constants.ENDPOINT).hostname, None)
    except OSError:
        constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = offline


def fetch_pretrained(architecture: str) -> dict[str, Tensor]:
    """Download (or take from the hub's cache) what timm publishes for this name, without its head.

    Raises: EnvironmentFault if the hub cannot be reached; ModelError if nothing is published.
    """
    config = timm.get_pretrained_cfg(architecture)
    if config is None or not (config.hf_hub_id or config.url):
        raise ModelError(f"timm publishes no pretrained weights for {architecture}", fix=WAYS_OUT)
    try:
        with _without_retries():
            module = timm.create_model(architecture, pretrained=True, num_classes=0)
    except (OSError, RuntimeError, ValueError) as error:  # what huggingface_hub and urllib raise offline
        raise EnvironmentFault(
            f"the pretrained weights of {architecture} could not be fetched",
            found=(str(error).splitlines() or [type(error).__name__])[0],
            fix=WAYS_OUT,
        ) from error
    return module.state_dict()


def fill_strictly(
    module: nn.Module, state: Mapping[str, Tensor], *, where: Path, what: str, fix: str | None = None
) -> None:
    """Load weights that must be all of the model's and nothing else.

    Raises: ModelError naming what is missing, spare or of another shape, or is not finite.
    """
    own = module.state_dict()
    differences = {
        "missing": sorted(own.keys() - state.keys()),
        "not of this model": sorted(state.keys() - own.keys()),
        "of another shape": sorted(key for key in own.keys() & state.keys() if own[key].shape != state[key].shape),
    }
    if any(differences.values()):
        found = "; ".join(f"{len(keys)} tensors {kind} ({keys[0]}, …)" for kind, keys in differences.items() if keys)
        raise ModelError(what, where=where, found=found, fix=fix)
    if broken := sorted(key for key, tensor in state.items() if not torch.isfinite(tensor).all()):
        raise ModelError("weights that are not finite", where=where, found=", ".join(broken[:3]))
    module.load_state_dict(dict(state))
