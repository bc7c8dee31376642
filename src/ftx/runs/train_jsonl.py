"""``reports/train.jsonl``: what each epoch of a training measured, a line each."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean

from pydantic import TypeAdapter, ValidationError

from ftx.core.errors import InputError
from ftx.core.untrusted_input import read_file

# The epochs of a mean: a single one moves by chance, of few validation images by several points.
SMOOTHED = 3

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


def means(reached: Sequence[float]) -> list[float]:
    """What each epoch has reached, as the mean of it and of the two before; the first two have fewer."""
    return [fmean(reached[max(end - SMOOTHED, 0) : end]) for end in range(1, len(reached) + 1)]


def with_means(epochs: Sequence[Epoch], metric: str) -> list[Epoch]:
    """Epochs, each with its mean."""
    each = means([epoch.metrics[metric] for epoch in epochs])
    return [replace(epoch, smoothed=mean) for epoch, mean in zip(epochs, each, strict=True)]


def rank(epoch: Epoch, metric: str) -> tuple[float, float]:
    """By which the best epoch is kept: of equally good ones the one with the smaller loss.

    It counts for no more than it reached, and for no more than its mean: neither a lucky epoch nor a bad one behind
    good ones.
    """
    reached = epoch.metrics[metric]
    return reached if epoch.smoothed is None else min(reached, epoch.smoothed), -epoch.val_loss


def best_epoch(epochs: Sequence[Epoch], metric: str) -> Epoch:
    """The one that is kept; of equal ones the first."""
    return max(epochs, key=lambda epoch: rank(epoch, metric))


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
