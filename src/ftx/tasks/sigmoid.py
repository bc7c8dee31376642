"""Labels that decide by themselves: their score and their loss.

Shapes: N images, C labels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ftx.tasks.thresholds import Floats

if TYPE_CHECKING:
    from torch import Tensor

    from ftx.tasks.task_names import LossName

# The asymmetric loss's published setting: positives as they are, easy negatives hushed, the easiest left out.
FOCUS_NEGATIVE = 4
MARGIN = 0.05


def sigmoid(logits_NC: Floats) -> Floats:
    """Shape: [N, C]."""
    # By the half that does not overflow.
    raised = np.exp(-np.abs(logits_NC))
    return np.where(logits_NC >= 0, 1 / (1 + raised), raised / (1 + raised)).astype(np.float32)


def binary_loss(logits_NC: Tensor, targets_NC: Tensor, kind: LossName, weights_2C: Tensor | None = None) -> Tensor:
    """Cross-entropy of each label, or the asymmetric loss, weighed where it holds and where not. Shape: [N, C].

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
