"""Balance of labels: rare ones count as much as frequent ones, by drawing or by weights.

Shapes: N images, C labels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ftx.recipe.sections import BalanceName
from ftx.tasks.base import Targets
from ftx.tasks.labels import Labels
from ftx.training.inputs import Order


@dataclass(frozen=True)
class Balance:
    """What makes rare labels count as much as frequent ones: drawing their images more often, or a larger loss.

    ``probability_N`` is the probability that each image is drawn; with None each is drawn once an epoch.
    ``weights_2C`` multiply a label's loss if it is present (row 0) and if it is not (row 1).
    """

    images: int
    probability_N: NDArray[np.float64] | None = None
    weights_2C: Tensor | None = None

    def order(self, rng: np.random.Generator) -> Order:
        """The images of one epoch, as many as there are. Shape: [N]."""
        if self.probability_N is None:
            return rng.permutation(self.images)
        return rng.choice(self.images, size=self.images, p=self.probability_N)

    def on(self, device: torch.device) -> Balance:
        """The balance with its weights on a device: to copy them there in each step would wait for it."""
        return self if self.weights_2C is None else replace(self, weights_2C=self.weights_2C.to(device))


def balance_of(kind: BalanceName, labels: Labels, targets_NC: Targets) -> Balance:
    """The balance of a recipe, by the labels of the training images."""
    if kind == "sampling":
        return Balance(len(targets_NC), probability_N=draw_probabilities(targets_NC))
    if kind == "loss":
        return Balance(len(targets_NC), weights_2C=torch.from_numpy(label_weights(labels, targets_NC)))
    return Balance(len(targets_NC))


def draw_probabilities(targets_NC: Targets) -> NDArray[np.float64]:
    """The probability of drawing each image, by its rarest label; no label counts as one label. Shape: [N].

    Source: the repeat factor of LVIS (arXiv:1908.03195, appendix B), the largest over an image's labels, here without
    its root and threshold: mutually exclusive classes are then drawn equally often.
    """
    held_NC = np.concatenate([targets_NC > 0, ~(targets_NC > 0).any(axis=1, keepdims=True)], axis=1)
    repeats_C = 1 / np.maximum(held_NC.sum(axis=0), 1)
    repeats_N = np.where(held_NC, repeats_C, 0).max(axis=1)
    return repeats_N / repeats_N.sum()


def label_weights(labels: Labels, targets_NC: Targets) -> NDArray[np.float32]:
    """Weights by which all labels of a group count the same, and both values of an independent label. Shape: [2, C].

    Their mean over the images is 1, so that the learning rate need not change.
    Source: scikit-learn's class_weight="balanced", n_samples / (n_classes · count); 1 for a label of no image.
    """
    count_C = (targets_NC > 0).sum(axis=0)
    weights_2C = np.ones((2, len(labels)), dtype=np.float32)
    for group in labels.groups:
        rows = [labels.index(name) for name in group]
        counts = count_C[rows]
        present = counts > 0
        weights_2C[0, rows] = np.where(present, counts.sum() / (max(present.sum(), 1) * np.maximum(counts, 1)), 1)
    for name in labels.singles:
        row, images = labels.index(name), len(targets_NC)
        if 0 < count_C[row] < images:
            weights_2C[:, row] = images / (2 * count_C[row]), images / (2 * (images - count_C[row]))
    return weights_2C
