"""Which epoch of a training is kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean

from ftx.runs.train_jsonl import Epoch

# The epochs of a mean: a single one moves by chance, of few validation images by several points.
SMOOTHED = 3


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


def best_smoothed(epochs: Sequence[Epoch], metric: str) -> Epoch:
    """The first with the highest mean, by which training stops: a single epoch's metric varies by chance."""
    each = means([epoch.metrics[metric] for epoch in epochs])
    return epochs[each.index(max(each))]


def best_epoch(epochs: Sequence[Epoch], metric: str) -> Epoch:
    """The one that is kept; of equal ones the first."""
    return max(epochs, key=lambda epoch: rank(epoch, metric))
