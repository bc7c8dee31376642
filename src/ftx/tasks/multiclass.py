"""Multiclass: exactly one label holds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ftx.labels import Labels
from ftx.tasks.base import Floats, ScoredLabel, Targets

if TYPE_CHECKING:
    from torch import Tensor


class Multiclass:
    """Softmax over all labels, cross-entropy, the best label wins."""

    def head_width(self, labels: Labels) -> int:
        """One logit a label."""
        return len(labels)

    def targets(self, labels: Labels, samples: Sequence[tuple[str, ...]]) -> Targets:
        """One-hot rows. Shape: [N, C]."""
        targets_NC = np.zeros((len(samples), len(labels)), dtype=np.float32)
        for row, names in enumerate(samples):
            (name,) = names
            targets_NC[row, labels.index(name)] = 1
        return targets_NC

    def loss(self, logits_NC: Tensor, targets_NC: Tensor, *, label_smoothing: float) -> Tensor:
        """Cross-entropy with smoothed labels (Szegedy et al., arXiv:1512.00567, section 7)."""
        from torch.nn.functional import cross_entropy

        return cross_entropy(logits_NC, targets_NC, label_smoothing=label_smoothing)

    def scores(self, logits_NC: Floats) -> Floats:
        """Softmax. Shape: [N, C]."""
        # Shifted by the largest logit, so that no exponential overflows.
        raised_NC = np.exp(logits_NC - logits_NC.max(axis=-1, keepdims=True))
        return raised_NC / raised_NC.sum(axis=-1, keepdims=True)

    def decode(self, labels: Labels, scores_C: Floats) -> list[ScoredLabel]:
        """The best label alone; of equal ones the first."""
        best = int(scores_C.argmax())
        return [ScoredLabel(name=labels.names[best], score=float(scores_C[best]))]

    def right(self, logits_NC: Floats, targets_NC: Targets) -> NDArray[np.bool_]:
        """Whether the best logit is the true label's. Shape: [N]."""
        return logits_NC.argmax(axis=-1) == targets_NC.argmax(axis=-1)

    def model_info(self, labels: Labels) -> dict[str, str]:
        """Model API's keys for one exclusive group."""
        return {"multilabel": "False", "hierarchical": "False", "topk": "1"}
