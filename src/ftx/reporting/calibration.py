"""Whether scores are probabilities: of the predictions with a score of 0.8, are 80 % correct?

Shapes: K predictions, each with a score in [0, 1] and whether it was correct.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ftx.core.statistics import wilson_interval
from ftx.tasks.thresholds import Flags, Floats

# As many as Guo et al. take.
BINS = 15


@dataclass(frozen=True)
class Bin:
    """The predictions with a score in (low, high]: their mean score, and the fraction correct with its 95 % interval.

    Source: Wilson's interval, as of every fraction.
    """

    low: float
    high: float
    predictions: int
    score: float
    correct: float
    correct_low: float
    correct_high: float


@dataclass(frozen=True)
class Calibration:
    """The bins that have predictions, and the expected calibration error in [0, 1].

    Source: Guo et al., arXiv:1706.04599, eq. 3: the mean over predictions of |fraction correct - mean score| of their
    bin.
    """

    bins: Sequence[Bin]
    predictions: int
    ece: float
    overconfident: bool


def calibration(scores_K: Floats, correct_K: Flags, bins: int = BINS) -> Calibration | None:
    """Sort predictions into bins of equal width by their score; None without predictions."""
    if not len(scores_K):
        return None
    # (low, high]: a score of 0.2 belongs to the bin that ends there; 0 to the first.
    number_K = np.clip(np.ceil(scores_K.astype(np.float64) * bins).astype(np.int64) - 1, 0, bins - 1)
    found: list[Bin] = []
    for number in np.unique(number_K).tolist():
        inside = number_K == number
        predictions, hits = int(inside.sum()), int(correct_K[inside].sum())
        score = float(scores_K[inside].astype(np.float64).mean())
        interval = wilson_interval(hits, predictions)
        found.append(Bin(number / bins, (number + 1) / bins, predictions, score, hits / predictions, *interval))
    ece = sum(one.predictions * abs(one.correct - one.score) for one in found) / len(scores_K)
    gap = sum(one.predictions * (one.score - one.correct) for one in found)
    return Calibration(found, len(scores_K), ece, overconfident=gap > 0)
