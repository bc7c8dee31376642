"""Scores in [0, 1] from logits, and the losses: of mutually exclusive classes, and of independent labels.

Shapes: N images, C labels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ftx.tasks.thresholds import Flags, Floats

if TYPE_CHECKING:
    from torch import Tensor

    from ftx.tasks.task_names import LossName

# The published setting of the asymmetric loss: focusing exponent of negatives, and the score below which they count 0.
FOCUS_NEGATIVE = 4
MARGIN = 0.05


def softmax(logits_NC: Floats) -> Floats:
    """Probabilities of mutually exclusive classes. Shape: [N, C]."""
    # Shifted by the largest logit, so that no exponential overflows.
    raised_NC = np.exp(logits_NC - logits_NC.max(axis=-1, keepdims=True))
    return raised_NC / raised_NC.sum(axis=-1, keepdims=True)


def best(values_NC: Floats) -> Flags:
    """Only the largest of each image; of equal ones the first. Shape: [N, C]."""
    return np.arange(values_NC.shape[-1]) == values_NC.argmax(axis=-1)[:, None]


def sigmoid(logits_NC: Floats) -> Floats:
    """Probabilities of independent labels. Shape: [N, C]."""
    # By the half that does not overflow.
    raised = np.exp(-np.abs(logits_NC))
    return np.where(logits_NC >= 0, 1 / (1 + raised), raised / (1 + raised)).astype(np.float32)


def class_loss(logits_NC: Tensor, targets_NC: Tensor, smoothing: float, weights_2C: Tensor | None) -> Tensor:
    """Cross-entropy of each image with smoothed labels, weighted by its true label. Shape: [N].

    Source: Szegedy et al., arXiv:1512.00567, section 7.
    """
    from torch.nn.functional import cross_entropy

    each_N = cross_entropy(logits_NC, targets_NC, label_smoothing=smoothing, reduction="none")
    if weights_2C is None:
        return each_N
    # Only by the true label: torch's own weights would multiply the part that smoothing gives to the others as well,
    # and teach a rare label on every image.
    return each_N * (targets_NC * weights_2C[0]).sum(dim=1)


def binary_loss(logits_NC: Tensor, targets_NC: Tensor, kind: LossName, weights_2C: Tensor | None = None) -> Tensor:
    """Cross-entropy of each label, or the asymmetric loss, weighted if it is present and if not. Shape: [N, C].

    Source: arXiv:2009.14119, eq. 4 to 6, with gamma+ 0, gamma- 4 and margin 0.05.
    """
    import torch
    from torch.nn.functional import binary_cross_entropy_with_logits, logsigmoid

    weights_NC = None if weights_2C is None else targets_NC * weights_2C[0] + (1 - targets_NC) * weights_2C[1]
    if kind == "bce":
        return binary_cross_entropy_with_logits(logits_NC, targets_NC, weight=weights_NC, reduction="none")
    # log(1 - p) of the shifted probability is finite, as that is at most 0.95.
    shifted_NC = (logits_NC.sigmoid() - MARGIN).clamp(min=0)
    negative_NC = shifted_NC**FOCUS_NEGATIVE * torch.log1p(-shifted_NC)
    loss_NC = -(targets_NC * logsigmoid(logits_NC) + (1 - targets_NC) * negative_NC)
    return loss_NC if weights_NC is None else loss_NC * weights_NC
