"""``reference.safetensors``: images and the trained model's answers, by which a device proves itself without torch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import save
from torch import nn

from ftx.core.files import write_atomic
from ftx.core.progress import SILENT, Progress
from ftx.data.dataset import Entry, groups_of
from ftx.data.image_store import ImageStore
from ftx.data.loader import load_pixels_many
from ftx.data.preprocess import Pixels, normalise
from ftx.runs.card_json import REFERENCE_FILE
from ftx.runs.run import Run

REFERENCE_IMAGES = 64
BATCH_IMAGES = 16


@dataclass(frozen=True)
class Reference:
    """Held-out images after the training path's resize and crop, and the trained model's logits in f32.

    Shape: pixels uint8 [N, H, W, 3], logits f32 [N, C]; the truth as the task's targets, f32 [N, C].
    """

    paths: tuple[str, ...]
    pixels_NHWC: Pixels
    logits_NC: NDArray[np.float32]
    targets_NC: NDArray[np.float32]
    # What each image is of, where any is of a group; else empty.
    groups: tuple[str, ...] = ()


def make_reference(run: Run, trained: nn.Module, data: Path | None = None, progress: Progress = SILENT) -> Reference:
    """Ask the trained model about up to 64 held-out images of a run, spread over the classes.

    Raises: DataError if an image is gone or has changed.
    """
    store, pre = ImageStore(run.data_root(data)), run.manifest.preprocess
    chosen = balanced(run.report_entries(), REFERENCE_IMAGES)
    pixels_NHWC = load_pixels_many([store[entry] for entry in chosen], pre, progress)
    logits = []
    with progress.track("Reference answers", len(chosen)) as task, torch.inference_mode():
        for start in range(0, len(chosen), BATCH_IMAGES):
            batch_NHWC = pixels_NHWC[start : start + BATCH_IMAGES]
            logits.append(trained(torch.from_numpy(normalise(batch_NHWC, pre))).float().numpy())
            task.advance(len(batch_NHWC))
    return Reference(
        paths=tuple(entry.path for entry in chosen),
        pixels_NHWC=pixels_NHWC,
        logits_NC=np.concatenate(logits),
        targets_NC=run.task.targets([entry.labels for entry in chosen]),
        groups=groups_of(chosen),
    )


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


def write_reference(reference: Reference, folder: Path) -> None:
    """Write ``reference.safetensors``; the same reference gives the same bytes."""
    blob = save(
        {"images": reference.pixels_NHWC, "logits": reference.logits_NC, "targets": reference.targets_NC},
        metadata={"paths": json.dumps(reference.paths)}
        | ({"groups": json.dumps(reference.groups)} if reference.groups else {}),
    )
    write_atomic(folder / REFERENCE_FILE, _sorted_header(blob))


def _sorted_header(blob: bytes) -> bytes:
    """The same safetensors file with the keys of its header in order.

    The library writes metadata in the order of a randomly seeded hash table: two keys come out in either
    order, another one in each process. Format: 8 bytes of header length, JSON, tensors.
    """
    length = int.from_bytes(blob[:8], "little")
    header = json.dumps(json.loads(blob[8 : 8 + length]), sort_keys=True, separators=(",", ":")).encode()
    # Padded with spaces to a multiple of 8, so that the tensors stay aligned.
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + blob[8 + length :]
