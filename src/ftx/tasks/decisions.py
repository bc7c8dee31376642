"""The decisions that a prediction depends on: how clear they are, and how far another model moves them.

A prediction is a list of decisions: the best label of a group against each other one, and each independent label
against its threshold. If the least clear decision is clearer than the largest movement, both models predict the same.

Shapes: N images, C labels.
"""

from __future__ import annotations

import numpy as np

from ftx.tasks.base import Task
from ftx.tasks.thresholds import Flags, Floats

# Rounding may decide between two patches of a model that drops some, if their scores differ by less than this fraction.
# In f32 it changes a score by at most 1.2e-5 of it (DINOv2-small with random head, 114 photographs, three choices,
# against float64). This is eight times as much; 5 % of those images have two such patches somewhere.
LEAST_MARGIN = 1e-4


def margins(task: Task, logits_NC: Floats) -> Floats:
    """How clear the least clear decision of each image is, in logits; infinite if there is none. Shape: [N]."""
    return _decisions(task, logits_NC, logits_NC).min(axis=1)


def movements(task: Task, logits_NC: Floats, other_NC: Floats) -> Floats:
    """How far ``other_NC`` moves the decisions of ``logits_NC`` towards another outcome, at most. Shape: [N].

    If it is smaller than the margin of an image, both predict the same labels for it: of each decision d,
    d(other) >= d(logits) - movement > 0.
    """
    ours, others = _decisions(task, logits_NC, logits_NC), _decisions(task, logits_NC, other_NC)
    with np.errstate(invalid="ignore"):  # inf - inf: no decision
        return np.nan_to_num(ours - others, nan=-np.inf, neginf=-np.inf).max(axis=1)


def _decisions(task: Task, decided_NC: Floats, logits_NC: Floats) -> Floats:
    """The decisions of ``decided_NC``, by the logits of a model: positive if it decides the same. Shape: [N, C].

    A label of a group has the distance from the best label, which has none (infinite); an independent label that from
    its threshold.
    """
    labels = task.labels
    found_NC = np.full(decided_NC.shape, np.inf, dtype=np.float32)
    for group in labels.groups:
        rows = [labels.index(name) for name in group]
        best_N1 = decided_NC[:, rows].argmax(axis=1)[:, None]
        gaps_NG = np.take_along_axis(logits_NC[:, rows], best_N1, axis=1) - logits_NC[:, rows]
        np.put_along_axis(gaps_NG, best_N1, np.inf, axis=1)
        found_NC[:, rows] = gaps_NG
    singles = [labels.index(name) for name in labels.singles]
    if singles:
        thresholds_S = task.thresholds.of(labels.singles)
        with np.errstate(divide="ignore"):
            at_S = np.log(thresholds_S) - np.log1p(-thresholds_S)
        sign_NS = np.where(task.predicted(decided_NC)[:, singles], 1, -1)
        found_NC[:, singles] = sign_NS * (logits_NC[:, singles] - at_S)
    return np.where(_matters(task, decided_NC), found_NC, np.inf)


def _matters(task: Task, logits_NC: Floats) -> Flags:
    """Whether a decision is made: at a root, or below a label that is predicted. Shape: [N, C]."""
    labels = task.labels
    predicted_NC = task.predicted(logits_NC)
    reached_NC = np.ones_like(predicted_NC)
    for name, above in labels.parents.items():
        reached_NC[:, labels.index(name)] = predicted_NC[:, labels.index(above)]
    for group in labels.groups:
        rows = [labels.index(name) for name in group]
        reached_NC[:, rows] = reached_NC[:, rows].any(axis=1, keepdims=True)
    return reached_NC
