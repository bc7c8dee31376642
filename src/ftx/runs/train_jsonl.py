"""``reports/train.jsonl``: what each epoch of a training measured, a line each."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from ftx.core.errors import InputError
from ftx.core.untrusted_input import read_file

# A hundred thousand epochs, each with the metrics of a multi-label task.
_MOST_BYTES = 100_000_000
# Within a run.
EPOCHS_FILE = Path("reports", "train.jsonl")


@dataclass(frozen=True)
class Epoch:
    """One line of train.jsonl; measured on validation images but for ``loss``; ``lr`` is that of its end.

    ``waiting_share`` is that of its seconds in which nothing could be computed, as images were still read, augmented or
    normalised, or kept features read. ``smoothed`` is the metric that chooses the epoch to keep, as the mean of this
    epoch and the two before; None in what an earlier ftx wrote, which chose only by the epoch.
    """

    epoch: int
    loss: float
    val_loss: float
    accuracy: float
    metrics: dict[str, float]
    lr: float
    images_per_s: float
    seconds: float
    waiting_share: float = 0.0
    smoothed: float | None = None


def epoch_lines(epochs: Sequence[Epoch]) -> bytes:
    """The content of the file."""
    return "".join(json.dumps(asdict(epoch)) + "\n" for epoch in epochs).encode()


def read_epochs(run: Path) -> list[Epoch]:
    """The epochs of a run; none where the file is missing or holds something else."""
    try:
        lines = read_file(run / EPOCHS_FILE, _MOST_BYTES).splitlines()
        return [_EPOCH.validate_json(line) for line in lines]
    except (OSError, InputError, ValidationError):
        return []


_EPOCH = TypeAdapter(Epoch)
