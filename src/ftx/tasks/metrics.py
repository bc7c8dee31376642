"""Measures of independent labels.

Shapes: N images, C labels.
"""

from __future__ import annotations

import numpy as np

from ftx.tasks.thresholds import Flags, Floats


def average_precision(scores_N: Floats, true_N: Flags) -> float | None:
    """The mean, over the images that have the label, of the precision among those that score at least as high.

    None where no image has it.
    Source: scikit-learn's ``average_precision_score``; equal scores count together.
    """
    positives = int(true_N.sum())
    if not positives:
        return None
    order = np.argsort(-scores_N, kind="stable")
    sorted_N, hits_N = scores_N[order], true_N[order].cumsum()
    # The last image of each score: precision and recall change only there.
    ends = np.append(np.flatnonzero(sorted_N[:-1] != sorted_N[1:]), len(sorted_N) - 1)
    precision = hits_N[ends] / (ends + 1)
    recall_step = np.diff(hits_N[ends], prepend=0) / positives
    return float((precision * recall_step).sum())


def mean_average_precision(scores_NC: Floats, true_NC: Flags) -> float:
    """The mean over the labels that occur; 0 where none does."""
    each = [average_precision(scores_NC[:, row], true_NC[:, row]) for row in range(scores_NC.shape[1])]
    known = [value for value in each if value is not None]
    return float(np.mean(known)) if known else 0.0


def f1_of(predicted_NC: Flags, true_NC: Flags) -> tuple[float, float]:
    """Macro and micro F1; a label that occurs neither in truth nor in predictions counts in neither."""
    hits_C = (predicted_NC & true_NC).sum(axis=0)
    # 2pr / (p + r) without the division by zero of p = r = 0.
    either_C = predicted_NC.sum(axis=0) + true_NC.sum(axis=0)
    each_C = 2 * hits_C / np.maximum(either_C, 1)
    macro = float(each_C[either_C > 0].mean()) if (either_C > 0).any() else 0.0
    return macro, float(2 * hits_C.sum() / max(int(either_C.sum()), 1))
