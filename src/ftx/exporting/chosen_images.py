"""Which images an export uses: to calibrate INT8, to choose its setting, and for the reference of a device."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import nn

from ftx.core.errors import ExportError
from ftx.core.progress import SILENT, Progress
from ftx.data.dataset import Entry, groups_of
from ftx.data.image_store import ImageStore
from ftx.data.loader import load_pixels_many
from ftx.data.preprocess import Pixels
from ftx.evaluating.measure import graph_logits
from ftx.runs.artifacts import IR_INT8, finer_variants
from ftx.runs.reference_safetensors import ReferenceFile
from ftx.runs.run import Run
from ftx.runtimes.torch import TorchPredictor
from ftx.tasks.thresholds import Floats

REFERENCE_IMAGES = 64
# Each setting of the search is calibrated with all of them. DINOv2 ViT-S with a linear head on Fashion-MNIST, mean
# absolute logit difference (the logits' standard deviation is 1.9), with 32 and with 128 images: without SmoothQuant
# 0.149 and 0.155, with 0.15 0.154 and 0.147, with 0.5 0.111 and 0.114. NNCF's default of 300 was no better than 100.
CALIBRATION_IMAGES = 32
# Enough to compare the settings: 32 and 96 images gave each the same error within 5 %.
CHOOSING_IMAGES = 32


def calibration_images(entries: Sequence[Entry]) -> tuple[tuple[Entry, ...], tuple[Entry, ...]]:
    """Training images to calibrate INT8 with, and others to choose its setting by.

    The classes take turns; the first turns calibrate, the last choose.

    Raises: ExportError if there are fewer than two different images.
    """
    # Copies of an image on both sides would let it choose what it calibrated.
    distinct = list({entry.sha256: entry for entry in entries}.values())
    choosing = max(1, min(CHOOSING_IMAGES, len(distinct) // 5))
    some = classes_in_turn(distinct, CALIBRATION_IMAGES + choosing)
    if len(some) < 2:
        raise ExportError(
            "--precision int8 needs at least 2 different training images: to calibrate, and to choose by",
            found=f"{len(some)} in the run's data",
            fix=f"export in another precision: --precision {' or --precision '.join(finer_variants(IR_INT8))}",
        )
    return some[:-choosing], some[-choosing:]


def make_reference(
    run: Run, trained: nn.Module, data: Path | None = None, progress: Progress = SILENT
) -> ReferenceFile:
    """Run the trained model on up to 64 held-out images of a run, spread over the classes.

    Raises: DataError if an image is gone or has changed.
    """
    store, pre = ImageStore(run.data_root(data)), run.manifest.preprocess
    chosen = classes_in_turn(run.report_entries(), REFERENCE_IMAGES)
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


def classes_in_turn(entries: Sequence[Entry], count: int) -> tuple[Entry, ...]:
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
