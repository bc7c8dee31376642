"""Frozen features: what the classifier of a pretrained backbone would read of each image, computed once and kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from ftx.adapters.trainable_model import prepare
from ftx.backbones.split_network import only_head_trains
from ftx.core.addresses import Location
from ftx.core.errors import ModelError
from ftx.core.memory import SMALLER, memory_faults
from ftx.core.progress import SILENT, Progress
from ftx.data.dataset import Entry
from ftx.data.pixel_store import pixel_store
from ftx.recipe.schema import Recipe
from ftx.tasks.base import Task
from ftx.training.device_placement import EVAL_BATCH, place, within_quota
from ftx.training.frozen_part import Frozen, faster_runtime, frozen_part
from ftx.training.inputs import inputs_of, training_images


@dataclass(frozen=True)
class Features:
    """A row for each image, in order, and the side (or HEIGHTxWIDTH) at which it was seen. Shape: [N, W]."""

    values_NW: NDArray[np.float32]
    image_size: int | str


def frozen_features(
    recipe: Recipe, root: Location, entries: Sequence[Entry], task: Task, progress: Progress = SILENT
) -> Features:
    """What the model's classifier would read of each image, by the image path of training.

    Raises: ModelError or EnvironmentFault as building the model does; ModelError for a network whose head is no layer
    of its own; DataError if an image is no longer the one that was listed.
    """
    probing = recipe.model_copy(update={"model": recipe.model.model_copy(update=_ONLY_HEAD)})
    with memory_faults(lambda: SMALLER):
        prepared = prepare(probing, len(task.labels))
        if not only_head_trains(prepared.backbone.module):
            raise ModelError(
                f"{recipe.model.name} has no features that one layer reads", fix="another --model, as dinov2-small"
            )
        within_quota()
        place(prepared, EVAL_BATCH)
        pre, limit_bytes = prepared.backbone.preprocess, probing.train.cache_gb * 1e9
        head_input = Frozen(prepared.backbone, kept_blocks=0, bf16=False)
        runtime = faster_runtime(head_input, len(entries), progress)
        with (
            pixel_store(probing.data, len(entries), pre, probing.train, progress) as pixels,
            frozen_part(replace(head_input, runtime=runtime), limit_bytes, progress=progress) as frozen,
        ):
            frozen.free_space(len(entries), progress)
            images = training_images(pre, root, entries, task, pixels=pixels)
            inputs = inputs_of(prepared.backbone.module, images, frozen)
            features_NW = torch.empty(len(entries), *frozen.shape)
            rows = iter(features_NW.split(EVAL_BATCH))
            with progress.track("Computing frozen features", len(entries)) as bar:
                for batch in inputs.batches(np.arange(len(entries)), EVAL_BATCH, epoch=0):
                    next(rows).copy_(batch.input)
                    bar.advance(len(batch.input))
    # a distilled model's two heads read one each
    return Features(features_NW.flatten(1).numpy(), pre.image_size)


_ONLY_HEAD = {"peft": "none", "freeze_backbone": True}
