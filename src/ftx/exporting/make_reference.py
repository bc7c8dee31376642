"""Held-out images of a run and the trained model's logits of them, for ``reference.safetensors``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import nn

from ftx.core.progress import SILENT, Progress
from ftx.data.dataset import Entry, groups_of
from ftx.data.image_store import ImageStore
from ftx.data.loader import load_pixels_many
from ftx.data.preprocess import Pixels
from ftx.evaluating.measure import graph_logits
from ftx.runs.reference_safetensors import ReferenceFile
from ftx.runs.run import Run
from ftx.runtimes.torch import TorchPredictor
from ftx.tasks.thresholds import Floats

REFERENCE_IMAGES = 64


def make_reference(
    run: Run, trained: nn.Module, data: Path | None = None, progress: Progress = SILENT
) -> ReferenceFile:
    """Run the trained model on up to 64 held-out images of a run, spread over the classes.

    Raises: DataError if an image is gone or has changed.
    """
    store, pre = ImageStore(run.data_root(data)), run.manifest.preprocess
    chosen = balanced(run.report_entries(), REFERENCE_IMAGES)
    pixels_NHWC = load_pixels_many([store[entry] for entry in chosen], pre, progress)
    logits_NC, clear_N = reference_logits(TorchPredictor(trained, pre, run.task), pixels_NHWC, progress)
    return ReferenceFile(
        paths=tuple(entry.path for entry in chosen),
        pixels_NHWC=pixels_NHWC,
        logits_NC=logits_NC,
        targets_NC=run.task.targets([entry.labels for entry in chosen]),
        groups=groups_of(chosen),
        clear_N=clear_N,
    )


def reference_logits(
    predictor: TorchPredictor, pixels_NHWC: Pixels, progress: Progress = SILENT
) -> tuple[Floats, NDArray[np.bool_] | None]:
    """Logits in torch f32, and whether the patches of each image were chosen clearly, if the model drops some.

    Shape: [N, H, W, 3] -> [N, C] and [N].
    """
    with progress.track("Reference logits", len(pixels_NHWC)) as bar, predictor.choice_margins() as margins:
        return graph_logits(predictor, pixels_NHWC, bar), margins.clear()


def balanced(entries: Sequence[Entry], count: int) -> tuple[Entry, ...]:
    """Up to ``count`` images, from each class in turn; within a class in the order of their content hashes.

    That order is as good as random, and gives the same images on every machine.
    """
    classes: dict[tuple[str, ...], list[Entry]] = {}
    for entry in sorted(entries, key=lambda entry: (entry.sha256, entry.path)):
        classes.setdefault(entry.labels, []).append(entry)
    ranked = [
        (turn, labels, entry) for labels, members in sorted(classes.items()) for turn, entry in enumerate(members)
    ]
    ranked.sort(key=lambda item: item[:2])
    return tuple(entry for _, _, entry in ranked[:count])
