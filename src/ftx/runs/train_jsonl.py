"""``reports/train.jsonl``: what each epoch of a training measured, a line each."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

# Within a run.
EPOCHS_FILE = Path("reports", "train.jsonl")


@dataclass(frozen=True)
class Epoch:
    """One line of train.jsonl; measured on validation images but for ``loss``; ``lr`` is that of its end.

    ``waiting_share`` is that of its seconds in which nothing could be computed, as images were still read, varied or
    normalised, or kept features read.
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


def rank(epoch: Epoch, metric: str) -> tuple[float, float]:
    """By which the best epoch is kept: of equally good ones the one with the smaller loss."""
    return epoch.metrics[metric], -epoch.val_loss


def best_epoch(epochs: Sequence[Epoch], metric: str) -> Epoch:
    """The one that is kept; of equal ones the first."""
    return max(epochs, key=lambda epoch: rank(epoch, metric))


def epoch_lines(epochs: Sequence[Epoch]) -> bytes:
    """The content of the file."""
    return "".join(json.dumps(asdict(epoch)) + "\n" for epoch in epochs).encode()


def read_epochs(run: Path) -> list[Epoch]:
    """The epochs of a run; none where the file is missing or holds something else."""
    try:
        lines = (run / EPOCHS_FILE).read_bytes().splitlines()
        return [_EPOCH.validate_json(line) for line in lines]
    except (OSError, ValidationError):
        return []


_EPOCH = TypeAdapter(Epoch)
