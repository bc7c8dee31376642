"""Linear probes on frozen features, cross-validated: what they say of an image was learnt from other images.

Shapes: N images, W features, C labels, in the order of the logits.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from ftx.core.progress import SILENT, Progress
from ftx.tasks.base import Targets
from ftx.tasks.labels import Labels

# L2 penalties of the mean loss, the strongest first: a weaker one begins where the one before ended. On the sample 0.1
# and 0.01 are chosen; scikit-learn's default (C = 1) is 1 / N.
STRENGTHS = (1.0, 0.1, 0.01, 0.001)
# On the sample a fit ends after 20 to 90.
_MOST_STEPS = 200


@dataclass(frozen=True)
class OutOfFold:
    """Each image's logits by the probe that did not learn from its fold, and the penalty of the least loss on those."""

    logits_NC: NDArray[np.float32]
    strength: float


def out_of_fold(
    features_NW: NDArray[np.float32],
    targets_NC: Targets,
    labels: Labels,
    fold_N: NDArray[np.intp],
    progress: Progress = SILENT,
) -> OutOfFold:
    """A probe for each fold, fitted on the others, with the penalty by which all fit best what they did not see."""
    features, targets = torch.from_numpy(features_NW).double(), torch.from_numpy(targets_NC).double()
    fold = torch.from_numpy(fold_N)
    folds: list[int] = fold.unique().tolist()
    weights = {one: torch.zeros(features.shape[1] + 1, targets.shape[1], dtype=torch.float64) for one in folds}
    best: tuple[float, Tensor, float] | None = None
    with progress.track("Fitting probes", None) as bar:
        for strength in STRENGTHS:
            logits_NC = torch.zeros_like(targets)
            for one in folds:
                own, others = fold == one, fold != one
                scaled = standardised(features, features[others])
                weights[one] = fit(scaled[others], targets[others], labels, strength, weights[one])
                logits_NC[own] = scaled[own] @ weights[one][1:] + weights[one][0]
                bar.advance()
            loss = float(mean_loss(logits_NC, targets, labels))
            if best is not None and loss >= best[0]:  # weaker ones, which take longest, fit the others' noise
                break
            best = loss, logits_NC, strength
    assert best is not None
    return OutOfFold(best[1].float().numpy(), best[2])


def standardised(features_NW: Tensor, of_NW: Tensor) -> Tensor:
    """Features by mean and deviation of others; one that never varies is 0. Shape: [N, W]."""
    deviation_W, mean_W = torch.std_mean(of_NW, dim=0, correction=0)
    # Below rounding a deviation is none.
    still_W = deviation_W <= 1e-9 * (1 + mean_W.abs())
    return torch.where(still_W, 0.0, (features_NW - mean_W) / torch.where(still_W, 1.0, deviation_W))


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
