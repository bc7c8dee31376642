"""Linear probes on frozen features, cross-validated: the probe of an image was trained on other images.

Shapes: N images, W features, C labels, in the order of the logits.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ftx.core.progress import SILENT, Progress
from ftx.tasks.base import Targets
from ftx.tasks.labels import Labels
from ftx.training.head_start import STRENGTHS, Scale, fit, mean_loss


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
                scaled = Scale.of(features[others]).standardised(features)
                weights[one] = fit(scaled[others], targets[others], labels, strength, weights[one])
                logits_NC[own] = scaled[own] @ weights[one][1:] + weights[one][0]
                bar.advance()
            loss = float(mean_loss(logits_NC, targets, labels))
            if best is not None and loss >= best[0]:  # weaker ones, which take longest, fit the others' noise
                break
            best = loss, logits_NC, strength
    assert best is not None
    return OutOfFold(best[1].float().numpy(), best[2])
