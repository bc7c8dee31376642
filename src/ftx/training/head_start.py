"""The head first: it starts as a linear probe on the features of the pretrained network.

A random head distorts the features in the first steps; one that already fits them does not. Source: LP-FT,
arXiv:2202.10054, section 3.

Shapes: N images, W features, C labels, in the order of the logits.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import chain

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from ftx.backbones.layer_roles import averaged_heads
from ftx.core.progress import Progress
from ftx.tasks.labels import Labels
from ftx.training.device_placement import EVAL_BATCH
from ftx.training.inputs import Inputs
from ftx.training.step import Training


@dataclass(frozen=True)
class HeadStart:
    """The penalty of the chosen probe, its loss on the validation images, and the time that it took."""

    strength: float
    val_loss: float
    seconds: float


def linear_heads(module: nn.Module) -> list[nn.Linear]:
    """The classifiers that a probe can start; none if one of them is not a linear layer with a bias."""
    heads = [module.get_submodule(name) for name in averaged_heads(module)]
    linear = [head for head in heads if isinstance(head, nn.Linear) and getattr(head, "bias", None) is not None]
    return linear if len(linear) == len(heads) else []


def bytes_to_fit(module: nn.Module, images: int, classes: int) -> int:
    """Memory that a fit of that many images and labels takes, in f64.

    All features at once: as they are read, concatenated, and standardised. The logits, and what their loss keeps. The
    weights, with all that the solver keeps of each of its last steps.
    """
    width = sum(head.in_features for head in linear_heads(module))
    return 8 * (3 * images * width + 8 * images * classes + (2 * _HISTORY + 25) * (width + 1) * classes)


def start_head(training: Training, progress: Progress) -> HeadStart | None:
    """Set the head to the probe, fitted on the training images, whose penalty is the best for the validation images.

    Each of several processes computes the features of its images, and all fit all of them.
    Returns None, with the head unchanged, if the classifier is not a linear layer of one row of features.
    """
    heads, labels = linear_heads(training.module), training.task.labels
    if not heads:
        return None
    began = time.perf_counter()
    known, unseen = (read_by(heads, training, one, progress) for one in (training.inputs, training.held_out))
    if known is None or unseen is None:
        return None
    (known_NW, targets_NC), (unseen_NW, val_targets_NC) = known, unseen
    scale = Scale.of(known_NW)
    scaled_NW, unseen_scaled_NW = scale.standardised(known_NW), scale.standardised(unseen_NW)
    weights = torch.zeros(known_NW.shape[1] + 1, targets_NC.shape[1], dtype=torch.float64)
    best: tuple[float, Tensor, float] | None = None
    with progress.track("Fitting the head", None) as bar:
        for strength in STRENGTHS:
            weights = fit(scaled_NW, targets_NC, labels, strength, weights)
            loss = float(mean_loss(unseen_scaled_NW @ weights[1:] + weights[0], val_targets_NC, labels))
            bar.advance()
            if best is not None and loss >= best[0]:  # weaker penalties, which take longest, fit the noise
                break
            best = loss, weights, strength
    assert best is not None
    set_heads(heads, *scale.for_features(best[1]))
    return HeadStart(best[2], best[0], time.perf_counter() - began)


def read_by(
    heads: list[nn.Linear], training: Training, inputs: Inputs, progress: Progress
) -> tuple[Tensor, Tensor] | None:
    """The heads' input for each image, concatenated, and the targets, in f64 on the CPU. Shape: [N, W], [N, C].

    None, after the first batch, if a head reads more than one row of features for an image.
    """
    training.module.eval()
    found: list[tuple[Tensor, Tensor]] = []
    with (
        torch.no_grad(),
        _noted(heads) as noted,
        progress.track("Reading features", len(inputs)) as bar,
        closing(inputs.batches(np.arange(len(inputs)), EVAL_BATCH, epoch=0, ranks=training.ranks)) as batches,
    ):
        for batch in batches:
            with torch.autocast(batch.input.device.type, torch.bfloat16, enabled=training.bf16):
                inputs.network(batch.input)
            if any(noted[head].shape[1:] != (head.in_features,) for head in heads):
                return None
            if batch.counts:
                read_BW = torch.cat([noted[head] for head in heads], dim=1)
                found.append((read_BW.cpu().double(), batch.targets_BC.cpu().double()))
            bar.advance(len(batch.whole_MC))
    read, targets = zip(*chain.from_iterable(training.ranks.gathered(found)), strict=True)
    return torch.cat(read), torch.cat(targets)


@contextmanager
def _noted(heads: list[nn.Linear]) -> Generator[dict[nn.Module, Tensor]]:
    noted: dict[nn.Module, Tensor] = {}

    def note(head: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        noted[head] = inputs[0].float()

    hooks = [head.register_forward_pre_hook(note) for head in heads]
    try:
        yield noted
    finally:
        for hook in hooks:
            hook.remove()


@torch.no_grad()
def set_heads(heads: list[nn.Linear], weight_CW: Tensor, bias_C: Tensor) -> None:
    """Set each head to its columns, times the number of heads, as their logits are averaged."""
    start = 0
    for head in heads:
        columns = weight_CW[:, start : start + head.in_features]
        head.weight.copy_(len(heads) * columns)
        head.bias.copy_(bias_C)
        start += head.in_features


# L2 penalties of the mean loss, the strongest first: a weaker one starts from the solution before. On the sample 0.1
# and 0.01 are chosen; scikit-learn's default (C = 1) is 1 / N.
STRENGTHS = (1.0, 0.1, 0.01, 0.001)
# On the sample a fit ends after 20 to 90.
_MOST_STEPS = 200
# Steps that the solver remembers. 100, torch's default, take as many steps to the same loss, in five times the memory.
_HISTORY = 10


@dataclass(frozen=True)
class Scale:
    """Mean and deviation of features. Shape: [W] both."""

    mean_W: Tensor
    deviation_W: Tensor

    @classmethod
    def of(cls, features_NW: Tensor) -> Scale:
        """Those of the images that a probe is fitted on; a constant feature has a deviation of 0."""
        deviation_W, mean_W = torch.std_mean(features_NW, dim=0, correction=0)
        # Below rounding a deviation is none.
        return cls(mean_W, torch.where(deviation_W <= 1e-9 * (1 + mean_W.abs()), 0.0, deviation_W))

    def standardised(self, features_NW: Tensor) -> Tensor:
        """Features by mean and deviation; a constant one is 0. Shape: [N, W]."""
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

    Multinomial logistic regression of each group, a logistic regression of each independent label. Shape: [1 + W, C].
    """
    weights = start.clone().requires_grad_(True)
    # Convex, and strictly so but for the biases: from wherever it starts it ends in one place.
    optimizer = torch.optim.LBFGS(
        [weights],
        max_iter=_MOST_STEPS,
        history_size=_HISTORY,
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
    """The sum of the losses of groups and independent labels, a mean over all images; 0 for a group with no label.

    A sum, and not a mean over labels as in training: each group and label is then fitted independently.
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
