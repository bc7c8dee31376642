"""Whether scores are what they say: of the answers given with a score of 0.8, are 80 % right?

Shapes: K answers, each with a score in [0, 1] and whether it was right.
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
    """The answers with a score in (low, high]: their mean score, and the share that was right with its 95 % interval.

    Source: Wilson's interval, as of every share.
    """

    low: float
    high: float
    answers: int
    score: float
    right: float
    right_low: float
    right_high: float


@dataclass(frozen=True)
class Calibration:
    """The bins that hold answers, and the expected calibration error in [0, 1].

    Source: Guo et al., arXiv:1706.04599, eq. 3: the mean over answers of |share right - mean score| of their bin.
    """

    bins: Sequence[Bin]
    answers: int
    ece: float
    overconfident: bool


def calibration(scores_K: Floats, right_K: Flags, bins: int = BINS) -> Calibration | None:
    """Sort answers into bins of equal width by their score; None without answers."""
    if not len(scores_K):
        return None
    # (low, high]: a score of 0.2 belongs to the bin that ends there; 0 to the first.
    number_K = np.clip(np.ceil(scores_K.astype(np.float64) * bins).astype(np.int64) - 1, 0, bins - 1)
    found: list[Bin] = []
    for number in np.unique(number_K).tolist():
        inside = number_K == number
        answers, hits = int(inside.sum()), int(right_K[inside].sum())
        low, high = wilson_interval(hits, answers)
        score = float(scores_K[inside].astype(np.float64).mean())
        found.append(Bin(number / bins, (number + 1) / bins, answers, score, hits / answers, low, high))
    ece = sum(one.answers * abs(one.right - one.score) for one in found) / len(scores_K)
    gap = sum(one.answers * (one.score - one.right) for one in found)
    return Calibration(found, len(scores_K), ece, overconfident=gap > 0)
