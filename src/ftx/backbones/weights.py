"""Pretrained weights: from a file or the hub, made on grey images or RGB, and the digest that names them.

Legend: O outputs and h x w taps of a convolution; G grey inputs, of which a stem that folds pixels into channels has
several.
"""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit

import timm
import torch
from huggingface_hub import constants
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ftx.backbones.layer_roles import pretrained_config
from ftx.core.errors import EnvironmentFault, ModelError

WAYS_OUT = "use --weights FILE.safetensors (a file), --weights none (random) or --model dinov2-small (bundled)"


def read_weights(file: Path) -> dict[str, Tensor]:
    """Tensors of a safetensors file, as f32.

    Raises: ModelError if it is not there or not a whole safetensors file.
    """
    if not file.is_file():
        raise ModelError("--weights must be a file that exists", where=file, fix=WAYS_OUT)
    try:
        return {name: tensor.float() for name, tensor in load_file(file).items()}
    except SafetensorError as error:
        raise ModelError(
            "--weights must be a complete safetensors file",
            where=file,
            found=str(error),
            fix="copy the file again; .pth and .bin can run code, so convert them to safetensors",
        ) from error


@contextmanager
def _without_retries() -> Iterator[None]:
    """Without a network, let the hub's library read only its cache: it would retry for 50 s and print warnings."""
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
        raise ModelError(f"timm has no pretrained weights for {architecture}", fix=WAYS_OUT)
    try:
        with _without_retries():
            module = timm.create_model(architecture, pretrained=True, num_classes=0)
    except (OSError, RuntimeError, ValueError) as error:  # what huggingface_hub and urllib raise offline
        raise EnvironmentFault(
            f"the pretrained weights of {architecture} could not be downloaded",
            found=(str(error).splitlines() or [type(error).__name__])[0],
            fix=WAYS_OUT,
        ) from error
    return module.state_dict()


def fill_strictly(module: nn.Module, state: Mapping[str, Tensor], *, where: Path, what: str, fix: str) -> None:
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
        raise ModelError(
            "the weights must be finite",
            where=where,
            found=", ".join(broken[:3]),
            fix="use weights without NaN or infinity",
        )
    module.load_state_dict(dict(state))


# ITU-R BT.601, as Pillow's convert("L") has it before it rounds.
LUMA = (0.299, 0.587, 0.114)


def take_grey(module: nn.Module, state: dict[str, Tensor], file: Path) -> bool:
    """Widen first convolutions of one channel to RGB, in place; whether there were any.

    With mean and std the same for the three channels (``grey_level``), luma commutes with normalisation, padding
    and the convolution: the model in RGB equals the grey one on 0.299 R + 0.587 G + 0.114 B.
    Raises: ModelError for another number of channels, or a convolution that standardises its weights.
    """
    own = module.state_dict()
    grey = False
    for name in _first_convolutions(module):
        key = f"{name}.weight"
        found = state.get(key)
        if found is None or key not in own or found.ndim != 4 or found.shape[1] == own[key].shape[1]:
            continue
        where = f"{file}: {key}"
        if found.shape[1] * len(LUMA) != own[key].shape[1]:
            channels = found.shape[1] * len(LUMA) / own[key].shape[1]
            raise ModelError(
                f"the weights must be for images of 1 or {len(LUMA)} channels",
                where=where,
                found=f"{channels:g} channels",
                fix="use weights made on RGB or grey images",
            )
        if "Std" in type(module.get_submodule(name)).__name__:  # timm's StdConv2d, ScaledStdConv2d and their like
            raise ModelError(
                "the weights must be made on RGB images, as this model standardises its weights over the channels",
                where=where,
                found="weights made on grey images",
                fix="use weights made on RGB images",
            )
        # Each grey input becomes three, multiplied by luma: [O, G, h, w] to [O, 3 G, h, w].
        luma_3 = torch.tensor(LUMA, dtype=torch.float64)
        state[key] = (found.double()[:, :, None] * luma_3[:, None, None]).flatten(1, 2).to(found.dtype)
        grey = True
    return grey


def grey_level(values: tuple[float, float, float]) -> tuple[float, float, float]:
    """One mean or std for all channels, as timm's loader takes it for a model of one channel: the average of three."""
    level = sum(values) / len(values)
    return level, level, level


def _first_convolutions(module: nn.Module) -> tuple[str, ...]:
    named = pretrained_config(module).get("first_conv") or ()
    return (named,) if isinstance(named, str) else tuple(cast("Sequence[str]", named))


def base_digest(state: Mapping[str, Tensor], heads: tuple[str, ...]) -> str:
    """SHA-256 over the tensors in the order of their names, as f32, without the head.

    Computed before any resampling, so that neither dtype, container nor input size changes it, and after weights made
    on grey images are widened to RGB, which gives the same bytes for the same file.
    """
    total = hashlib.sha256()
    for name in sorted(state):
        if any(name.startswith(f"{head}.") for head in heads):
            continue
        tensor = state[name].detach().to("cpu", torch.float32).contiguous()
        total.update(f"{name} {list(tensor.shape)}\n".encode())
        total.update(tensor.numpy().tobytes())
    return total.hexdigest()
