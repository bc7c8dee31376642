"""Frozen features: what the classifier of a pretrained backbone would read of each image, computed once and kept."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from ftx.adapters.trainable_model import prepare
from ftx.backbones.split_network import cut_at_head, head_alone
from ftx.core.errors import FtxError, ModelError
from ftx.core.files import staged_file
from ftx.core.memory import SMALLER, memory_faults
from ftx.core.progress import SILENT, Progress
from ftx.core.user_cache import cache_folder
from ftx.data.dataset import Entry
from ftx.data.image_store import ImageStore
from ftx.recipe.schema import Recipe
from ftx.tasks.base import Task
from ftx.training.device_placement import place
from ftx.training.inputs import EVAL_BATCH, FeatureInputs

# In the user's cache, so that looking on after a break does not compute them again.
_KIND, _FILE, _NAME = "features", "features.safetensors", "features"


@dataclass(frozen=True)
class Features:
    """A row for each image, in order, and the side (or HEIGHTxWIDTH) at which it was seen. Shape: [N, W]."""

    values_NW: NDArray[np.float32]
    image_size: int | str


def frozen_features(
    recipe: Recipe, root: Path, entries: Sequence[Entry], task: Task, progress: Progress = SILENT
) -> Features:
    """What the model's classifier would read of each image, by the image path of training.

    Raises: ModelError or EnvironmentFault as building the model does; ModelError for a network whose head is no layer
    of its own; DataError if an image is no longer the one that was listed.
    """
    probing = recipe.model_copy(update={"model": recipe.model.model_copy(update=_HEAD_ALONE)})
    with memory_faults(lambda: SMALLER):
        prepared = prepare(probing, len(task.labels))
        module, pre = prepared.backbone.module, prepared.backbone.preprocess
        if not head_alone(module):
            raise ModelError(
                f"{recipe.model.name} has no features that one layer reads", fix="another --model, as dinov2-small"
            )
        known = f"{prepared.backbone.digest} {pre} {torch.__version__}".encode()
        digest = sha256(known + b"".join(bytes.fromhex(entry.sha256) for entry in entries)).hexdigest()
        cached = cache_folder(_KIND, digest)
        if cached is not None and (kept := _kept(cached / _FILE, len(entries))) is not None:
            return Features(kept, pre.image_size)
        where = place(prepared, EVAL_BATCH)
        store = ImageStore(root)
        images = [store.at(entry.path, entry.sha256) for entry in entries]
        targets_NC = task.targets([entry.labels for entry in entries])
        inputs = FeatureInputs(cut_at_head(module), images, targets_NC, pre, device=where, progress=progress)
    features_NW = inputs.features.float().flatten(1).contiguous()  # a distilled model's two heads read one each
    if cached is not None:
        with suppress(FtxError), staged_file(cached / _FILE) as staged:  # a full disk costs the next start its time
            save_file({_NAME: features_NW}, staged)
    return Features(features_NW.numpy(), pre.image_size)


def _kept(file: Path, images: int) -> NDArray[np.float32] | None:
    """Features that were computed before; None where there are none that hold."""
    try:
        features_NW = load_file(file)[_NAME]
    except Exception:  # not there, cut off, or not ours: they are made again
        return None
    sound = features_NW.ndim == 2 and len(features_NW) == images and features_NW.dtype == torch.float32
    return features_NW.numpy() if sound else None


_HEAD_ALONE = {"peft": "none", "freeze_backbone": True}
