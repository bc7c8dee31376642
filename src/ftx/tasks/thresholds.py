"""The score above which an independent label is predicted, tuned on images that were not trained on.

Shapes: N images, C labels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Flags = NDArray[np.bool_]

DEFAULT = 0.5


@dataclass(frozen=True)
class Thresholds:
    """By label; ``shared`` is the best one for all, for readers of a single threshold."""

    labels: Mapping[str, float] = field(default_factory=dict[str, float])
    shared: float = DEFAULT

    def __post_init__(self) -> None:
        if wrong := [one for one in (self.shared, *self.labels.values()) if not 0 <= one <= 1]:
            raise ValueError(f"a threshold must be between 0 and 1, found {wrong[0]}")

    def of(self, names: Sequence[str]) -> NDArray[np.float32]:
        """One a label, in their order. Shape: [C]."""
        return np.array([self.labels.get(name, DEFAULT) for name in names], dtype=np.float32)

    def decoding_code(self, names: Sequence[str]) -> tuple[list[str], list[str]]:
        """Python for a model card: definitions, and what prints the labels whose score is above its threshold."""
        thresholds = [round(float(one), 6) for one in self.of(names)]
        chosen = "[label for label, score, threshold in zip(labels, scores.tolist(), thresholds) if score > threshold]"
        return [f"thresholds = {thresholds!r}"], ["scores = logits[0].sigmoid()", f"print({chosen})"]


def tune(names: Sequence[str], scores_NC: Floats, true_NC: Flags) -> Thresholds:
    """For each label the threshold of the largest F1, and for all together that of the largest micro F1."""
    each = {name: best_threshold(scores_NC[:, row], true_NC[:, row]) for row, name in enumerate(names)}
    return Thresholds(each, best_threshold(scores_NC.ravel(), true_NC.ravel()))


def best_threshold(scores_N: Floats, true_N: Flags) -> float:
    """The threshold of the largest F1: half way between two neighbouring scores, of equal ones the nearest to 0.5.

    Without a positive, or if all scores are equal, every threshold is as good and 0.5 stays.
    """
    order = np.argsort(-scores_N, kind="stable")
    sorted_N, hits_N = scores_N[order].astype(np.float64), true_N[order].cumsum()
    positives = int(true_N.sum())
    # A threshold lies between scores that differ: images of equal scores are predicted together.
    cuts = np.flatnonzero(sorted_N[:-1] > sorted_N[1:])
    if not positives or not len(cuts):
        return DEFAULT
    f1 = 2 * hits_N[cuts] / (cuts + 1 + positives)
    between = (sorted_N[cuts] + sorted_N[cuts + 1]) / 2
    best = between[f1 == f1.max()]
    return float(best[np.abs(best - DEFAULT).argmin()])
