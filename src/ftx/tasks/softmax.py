"""Labels that exclude each other: the share of each, and the best.

Shapes: N images, C labels.
"""

from __future__ import annotations

import numpy as np

from ftx.tasks.thresholds import Flags, Floats


def softmax(logits_NC: Floats) -> Floats:
    """Shape: [N, C]."""
    # Shifted by the largest logit, so that no exponential overflows.
    raised_NC = np.exp(logits_NC - logits_NC.max(axis=-1, keepdims=True))
    return raised_NC / raised_NC.sum(axis=-1, keepdims=True)


def best(values_NC: Floats) -> Flags:
    """The largest of each image alone; of equal ones the first. Shape: [N, C]."""
    return np.arange(values_NC.shape[-1]) == values_NC.argmax(axis=-1)[:, None]
