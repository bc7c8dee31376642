"""A linear probe on frozen features: logistic regression, solved to its minimum instead of trained by steps.

Shapes: N images, W features, C labels, in the order of the logits.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from ftx.tasks.labels import Labels

# L2 penalties of the mean loss, the strongest first: a weaker one begins where the one before ended. On the sample 0.1
# and 0.01 are chosen; scikit-learn's default (C = 1) is 1 / N.
STRENGTHS = (1.0, 0.1, 0.01, 0.001)
# On the sample a fit ends after 20 to 90.
_MOST_STEPS = 200


@dataclass(frozen=True)
class Scale:
    """Mean and deviation of features. Shape: [W] both."""

    mean_W: Tensor
    deviation_W: Tensor

    @classmethod
    def of(cls, features_NW: Tensor) -> Scale:
        """Those of the images that a probe is fitted on; one that never varies has a deviation of 0."""
        deviation_W, mean_W = torch.std_mean(features_NW, dim=0, correction=0)
        # Below rounding a deviation is none.
        return cls(mean_W, torch.where(deviation_W <= 1e-9 * (1 + mean_W.abs()), 0.0, deviation_W))

    def standardised(self, features_NW: Tensor) -> Tensor:
        """Features by mean and deviation; one that never varies is 0. Shape: [N, W]."""
        return (features_NW - self.mean_W) * self._inverse

    def for_features(self, weights: Tensor) -> tuple[Tensor, Tensor]:
        """A probe of standardised features as one of the features themselves. Shape: weights [C, W], biases [C]."""
        weight_CW = weights[1:].mT * self._inverse
        return weight_CW, weights[0] - weight_CW @ self.mean_W

    @property
    def _inverse(self) -> Tensor:
        """Of the deviation, with 0 where it is. Shape: [W]."""
        still_W = self.deviation_W == 0
        return torch.where(still_W, 0.0, 1 / torch.where(still_W, 1.0, self.deviation_W))


def fit(features_NW: Tensor, targets_NC: Tensor, labels: Labels, strength: float, start: Tensor) -> Tensor:
    """Weights and, in the first row, biases of the least mean loss plus ``strength`` / 2 · ‖weights‖².

    Multinomial logistic regression of each group, a logistic regression of each single. Shape: [1 + W, C].
    """
    weights = start.clone().requires_grad_(True)
    # Convex, and strictly so but for the biases: from wherever it starts it ends in one place.
    optimizer = torch.optim.LBFGS(
        [weights],
        max_iter=_MOST_STEPS,
        tolerance_grad=1e-5,  # of a mean loss; scikit-learn stops at 1e-4
        tolerance_change=1e-12,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        logits_NC = features_NW @ weights[1:] + weights[0]
        loss = mean_loss(logits_NC, targets_NC, labels) + strength / 2 * weights[1:].square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return weights.detach()


def mean_loss(logits_NC: Tensor, targets_NC: Tensor, labels: Labels) -> Tensor:
    """The sum of the losses of groups and singles, a mean over all images; a group's is 0 where its label is not known.

    A sum, and not a mean over labels as in training: each group and single is then fitted as if it were alone.
    """
    total = logits_NC.new_zeros(())
    for group in labels.groups:
        columns = [labels.index(name) for name in group]
        truth_NG = targets_NC[:, columns]
        total = total + cross_entropy(logits_NC[:, columns], truth_NG, reduction="sum")
    if labels.singles:
        columns = [labels.index(name) for name in labels.singles]
        total = total + binary_cross_entropy_with_logits(logits_NC[:, columns], targets_NC[:, columns], reduction="sum")
    return total / len(logits_NC)
