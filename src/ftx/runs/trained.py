"""``trained/``: what training made, written and read; ``ftx merge`` turns each of the four into ``dense/``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ftx.adapters.peft_network import load_adapter, save_adapter
from ftx.adapters.trainable_model import TrainableModel, prepare
from ftx.backbones.layer_roles import head_names
from ftx.core.disk import disk_faults
from ftx.core.errors import MergeError, RunError
from ftx.recipe.method_defaults import Method
from ftx.runs.artifacts import TRAINED
from ftx.runs.dense import dense_state
from ftx.runs.run import Run
from ftx.runs.run_json import RESTORE

HEAD = "head.safetensors"
MODEL = "model.safetensors"


def save_trained(prepared: TrainableModel, folder: Path) -> None:
    """An adapter in PEFT's format, a head, or a whole model, by the method."""
    module, backbone = prepared.backbone.module, prepared.backbone
    folder.mkdir(parents=True, exist_ok=True)
    if prepared.spec is not None:
        save_adapter(
            module, prepared.spec, base_model=backbone.architecture, base_digest=backbone.digest, folder=folder
        )
        return
    if prepared.method == "full":
        file, tensors = MODEL, dense_state(module)
    else:
        file, tensors = HEAD, head_state(module)
        tensors = {name: tensor.detach().float().cpu().contiguous() for name, tensor in tensors.items()}
    with disk_faults(folder):
        save_file(tensors, folder / file, metadata={"format": "pt"})


def head_state(module: nn.Module) -> dict[str, Tensor]:
    """The classifier's tensors by their names in the model."""
    return {
        f"{head}.{name}": tensor
        for head in head_names(module)
        for name, tensor in module.get_submodule(head).state_dict().items()
    }


def load_trained(run: Run) -> nn.Module:
    """The trained model as training left it: f32, adapters attached and not merged, for inference.

    Shape: it takes normalised images [N, 3, H, W].
    Raises: RunError if ``trained/`` is altered; AdapterError or MergeError if it is invalid.
    """
    prepared = prepare(run.recipe(), len(run.manifest.labels), saved=True)
    load_trained_into(prepared, run)
    return prepared.backbone.module.eval().requires_grad_(False)


def load_trained_into(prepared: TrainableModel, run: Run) -> None:
    """Fill the model of a run's recipe with what training made.

    Raises: as ``load_trained``.
    """
    folder = run.require(TRAINED)
    require_base(run, prepared.backbone.digest)
    own, recorded = prepared.backbone.preprocess, run.manifest.preprocess
    if (own.height, own.width) != (recorded.height, recorded.width):
        raise RunError(
            "run.json and recipe.yaml must have the same image size",
            where=run.path,
            found=f"{recorded.image_size} and {own.image_size} px",
            fix="restore both from a copy of the run",
        )
    module = prepared.backbone.module
    if prepared.spec is not None:
        load_adapter(module, folder)
    else:
        fill(module, read_plain(folder, prepared.method, module))


def require_base(run: Run, digest: str) -> None:
    """Raise MergeError if the base at hand is not the one that the run was trained on."""
    if digest != run.manifest.base_digest:
        raise MergeError(
            "the base must be the one that the run was trained on",
            where=run.path,
            found=f"hash {digest[:12]}…; the run has {run.manifest.base_digest[:12]}…",
            fix="restore the weights that training used (model.weights in recipe.yaml)",
        )


def read_plain(folder: Path, method: Method, base: nn.Module) -> dict[str, Tensor]:
    """The tensors of a trained head or a fully trained model, held against the model they are for.

    Raises: MergeError for missing or spare keys, wrong shapes, or values that are not finite.
    """
    path = folder / (MODEL if method == "full" else HEAD)
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise MergeError("the trained weights cannot be read", where=path, found=str(error), fix=RESTORE) from error
    expected = base.state_dict() if method == "full" else head_state(base)
    wrong = sorted(expected.keys() ^ tensors.keys()) or [
        name for name in expected if expected[name].shape != tensors[name].shape
    ]
    if wrong:
        raise MergeError("the trained weights must fit the model", where=path, found=", ".join(wrong[:3]), fix=RESTORE)
    if broken := [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]:
        raise MergeError(
            "the trained weights must be finite",
            where=path,
            found=", ".join(broken[:3]),
            fix="train again with a lower train.lr",
        )
    return tensors


def fill(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Load tensors into those of the same name, in place."""
    state = module.state_dict()
    with torch.no_grad():
        for name, tensor in tensors.items():
            state[name].copy_(tensor)
