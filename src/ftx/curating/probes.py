"""Linear probes on frozen features, cross-validated: the probe of an image was trained on other images.

``frozen_features`` computes what the classifier of a pretrained backbone would read of each image, ``stratified_folds``
puts near-duplicates into one fold, ``out_of_fold`` fits a probe for each fold on the others.

Shapes: N images, W features, C labels, in the order of the logits.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import sha256

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ftx.adapters.trainable_model import prepare
from ftx.backbones.split_network import only_head_trains
from ftx.core.addresses import Location
from ftx.core.errors import ModelError
from ftx.core.memory import SMALLER, memory_faults
from ftx.core.progress import SILENT, Progress
from ftx.data.dataset import Entry
from ftx.data.pixel_store import pixel_store
from ftx.recipe.schema import Recipe
from ftx.tasks.base import Targets, Task
from ftx.tasks.labels import Labels
from ftx.training.device_placement import EVAL_BATCH, place, within_quota
from ftx.training.frozen_part import FrozenTrunk, faster_runtime, frozen_part, may_convert
from ftx.training.head_start import STRENGTHS, Scale, fit, mean_loss
from ftx.training.inputs import inputs_of, training_images

# A fifth is judged by a probe trained on four fifths.
FOLDS = 5
_ONLY_HEAD = {"peft": "none", "freeze_backbone": True}


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
                "--model must be a network whose head is separate from its features",
                found=recipe.model.name,
                fix="use --model dinov2-small",
            )
        within_quota()
        where = place(prepared)
        pre, limit_bytes = prepared.backbone.preprocess, probing.train.cache_gb * 1e9
        head_input = FrozenTrunk(prepared.backbone, kept_blocks=0, bf16=False)
        worth = may_convert(len(entries), where.type)
        runtime = faster_runtime(head_input, progress) if worth else "torch"
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


def stratified_folds(labels: Sequence[tuple[str, ...]], subjects: Sequence[str], most: int = FOLDS) -> NDArray[np.intp]:
    """The fold of each image; those of one subject are in one, and each label is spread evenly.

    A subject goes where fewest images of its rarest label are, then where fewest images are; the rarest labels come
    first. A label that fewer subjects have than there are folds is in as many folds as subjects have it. Neither the
    order of the images nor their names matter beyond the subjects' own.
    Shape: [N], up to ``most`` folds, no more than there are subjects.
    """
    members: dict[str, list[int]] = defaultdict(list)
    for row, subject in enumerate(subjects):
        members[subject].append(row)
    frequency = Counter(name for names in labels for name in names)
    rarest: dict[str, tuple[int, str]] = {}
    for subject, rows in members.items():
        names = {name for row in rows for name in labels[row]}
        rarest[subject] = min(((frequency[name], name) for name in names), default=(0, ""))
    folds = max(min(most, len(members)), 1)
    held: Counter[tuple[int, str]] = Counter()
    size: Counter[int] = Counter()
    fold_N = np.zeros(len(labels), dtype=np.intp)

    def order(subject: str) -> tuple[object, ...]:
        # Large subjects first, as what is small evens out; then by hash, so that names in order are mixed.
        return rarest[subject], -len(members[subject]), sha256(subject.encode(errors="surrogateescape")).hexdigest()

    for subject in sorted(members, key=order):
        _, name = rarest[subject]
        fold = min(range(folds), key=lambda one: (held[one, name], size[one], one))
        for row in members[subject]:
            fold_N[row] = fold
            size[fold] += 1
            for each in labels[row]:
                held[fold, each] += 1
    return fold_N


@dataclass(frozen=True)
class OutOfFold:
    """Each image's logits by the probe that did not learn from its fold, and the penalty of the least loss on those."""

    logits_NC: NDArray[np.float32]
    strength: float


def out_of_fold(
    features_NW: NDArray[np.float32],
    targets_NC: Targets,
    labels: Labels,
    fold_N: NDArray[np.intp],
    known_N: NDArray[np.bool_] | None = None,
    *,
    progress: Progress = SILENT,
) -> OutOfFold:
    """A probe for each fold, fitted on the others, with the penalty by which all fit best what they did not see.

    With ``known_N`` a probe is fitted only on those of the other images for which it is true.
    """
    features, targets = torch.from_numpy(features_NW).double(), torch.from_numpy(targets_NC).double()
    fold = torch.from_numpy(fold_N)
    known = torch.ones(len(fold), dtype=torch.bool) if known_N is None else torch.from_numpy(known_N)
    folds: list[int] = fold.unique().tolist()
    weights = {one: torch.zeros(features.shape[1] + 1, targets.shape[1], dtype=torch.float64) for one in folds}
    best: tuple[float, Tensor, float] | None = None
    with progress.track("Fitting probes", None) as bar:
        for strength in STRENGTHS:
            logits_NC = torch.zeros_like(targets)
            for one in folds:
                own, others = fold == one, (fold != one) & known
                scaled = Scale.of(features[others]).standardised(features)
                weights[one] = fit(scaled[others], targets[others], labels, strength, weights[one])
                logits_NC[own] = scaled[own] @ weights[one][1:] + weights[one][0]
                bar.advance()
            loss = float(mean_loss(logits_NC, targets, labels))
            if best is not None and loss >= best[0]:  # weaker ones, which take longest, fit the others' noise
                break
            best = loss, logits_NC, strength
    assert best is not None
    return OutOfFold(best[1].float().numpy(), best[2])
