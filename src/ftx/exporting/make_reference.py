"""Held-out images of a run and the trained model's answers to them, for ``reference.safetensors``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ftx.backbones.kept_tokens import choice_margins
from ftx.core.progress import SILENT, Progress
from ftx.data.dataset import Entry, groups_of
from ftx.data.image_store import ImageStore
from ftx.data.loader import load_pixels_many
from ftx.data.preprocess import Pixels, Preprocess, normalise
from ftx.runs.reference_safetensors import ReferenceFile
from ftx.runs.run import Run
from ftx.tasks.thresholds import Floats

REFERENCE_IMAGES = 64
BATCH_IMAGES = 16


def make_reference(
    run: Run, trained: nn.Module, data: Path | None = None, progress: Progress = SILENT
) -> ReferenceFile:
    """Ask the trained model about up to 64 held-out images of a run, spread over the classes.

    Raises: DataError if an image is gone or has changed.
    """
    store, pre = ImageStore(run.data_root(data)), run.manifest.preprocess
    chosen = balanced(run.report_entries(), REFERENCE_IMAGES)
    pixels_NHWC = load_pixels_many([store[entry] for entry in chosen], pre, progress)
    logits_NC, clear_N = answers(trained, pixels_NHWC, pre, progress)
    return ReferenceFile(
        paths=tuple(entry.path for entry in chosen),
        pixels_NHWC=pixels_NHWC,
        logits_NC=logits_NC,
        targets_NC=run.task.targets([entry.labels for entry in chosen]),
        groups=groups_of(chosen),
        clear_N=clear_N,
    )


def answers(
    trained: nn.Module, pixels_NHWC: Pixels, pre: Preprocess, progress: Progress = SILENT
) -> tuple[Floats, NDArray[np.bool_] | None]:
    """What a model answers in torch f32, and whether it chose its patches clearly, where it drops some.

    Shape: [N, H, W, 3] -> [N, C] and [N].
    """
    logits: list[Floats] = []
    with (
        progress.track("Reference answers", len(pixels_NHWC)) as task,
        torch.inference_mode(),
        choice_margins(trained) as choices,
    ):
        for start in range(0, len(pixels_NHWC), BATCH_IMAGES):
            batch_NHWC = pixels_NHWC[start : start + BATCH_IMAGES]
            logits.append(trained(torch.from_numpy(normalise(batch_NHWC, pre))).float().numpy())
            task.advance(len(batch_NHWC))
    return np.concatenate(logits), choices.clear()


def balanced(entries: Sequence[Entry], count: int) -> tuple[Entry, ...]:
    """Up to ``count`` images, the classes taking turns; within a class in the order of their content hashes.

    The hash orders as a die would, and gives the same images on every machine.
    """
    classes: dict[tuple[str, ...], list[Entry]] = {}
    for entry in sorted(entries, key=lambda entry: (entry.sha256, entry.path)):
        classes.setdefault(entry.labels, []).append(entry)
    ranked = [
        (turn, labels, entry) for labels, members in sorted(classes.items()) for turn, entry in enumerate(members)
    ]
    ranked.sort(key=lambda item: item[:2])
    return tuple(entry for _, _, entry in ranked[:count])
