"""``reference.safetensors``: images and the trained model's logits, by which a device proves itself without torch."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from ftx.core.files import write_atomic
from ftx.data.preprocess import Pixels
from ftx.runs.card_json import REFERENCE_FILE


@dataclass(frozen=True)
class ReferenceFile:
    """Held-out images after the training path's resize and crop, and the trained model's logits in f32.

    Shape: pixels uint8 [N, H, W, 3], logits f32 [N, C]; the truth as the task's targets, f32 [N, C], or [0, C] where
    nobody knows it.
    """

    paths: tuple[str, ...]
    pixels_NHWC: Pixels
    logits_NC: NDArray[np.float32]
    targets_NC: NDArray[np.float32]
    # What each image is of, where any is of a group; else empty.
    groups: tuple[str, ...] = ()
    # Of a model that drops patches: whether rounding in f32 cannot change which stay. Shape: [N].
    clear_N: NDArray[np.bool_] | None = None


def write_reference(reference: ReferenceFile, folder: Path) -> None:
    """Write ``reference.safetensors``; the same reference gives the same bytes."""
    tensors: dict[str, NDArray[Any]] = {
        "images": reference.pixels_NHWC,
        "logits": reference.logits_NC,
        "targets": reference.targets_NC,
    }
    if reference.clear_N is not None:
        tensors["clear"] = reference.clear_N
    blob = save(
        tensors,
        metadata={"paths": json.dumps(reference.paths)}
        | ({"groups": json.dumps(reference.groups)} if reference.groups else {}),
    )
    write_atomic(folder / REFERENCE_FILE, sorted_header(blob))


def sorted_header(blob: bytes) -> bytes:
    """The same safetensors file with the keys of its header in order.

    The library writes metadata in the order of a randomly seeded hash table: two keys come out in either
    order, another one in each process. Format: 8 bytes of header length, JSON, tensors.
    """
    length = int.from_bytes(blob[:8], "little")
    header = json.dumps(json.loads(blob[8 : 8 + length]), sort_keys=True, separators=(",", ":")).encode()
    # Padded with spaces to a multiple of 8, so that the tensors stay aligned.
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + blob[8 + length :]
