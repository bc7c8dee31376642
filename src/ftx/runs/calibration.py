"""The calibration of an exported model for one way of running it: what its prediction sets rest on.

Both guarantees need new images from the same source as the calibration images.

- On average over calibration sets, a prediction set misses at most 1 - coverage of the labels of an image.
- With 95 % confidence for these images, the sets contain the label of at least some fraction of images. This is known
  only where each image has one label, or one path in a tree.

Source: conformal risk control, arXiv:2208.02814, eq. 4. With one label an image it is split conformal prediction. The
second: Vovk, arXiv:1209.2673, proposition 2a, as a quantile of the beta distribution.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate
from typing import Annotated, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from ftx.core.closed_model import ClosedModel
from ftx.core.statistics import fraction_at_most
from ftx.runs.compute_precision import ComputeField, Dtype
from ftx.runs.machine import InstructionSet, Machine
from ftx.runs.views import KernelPath
from ftx.tasks.base import Task
from ftx.tasks.thresholds import Floats

CONFIDENCE = 0.95
COVERAGE = 0.95
# What decides which kernels run: the instruction set, the precision, the kernels for batches or single images, the
# version of OpenVINO, and its name of the device.
KernelWay = tuple[InstructionSet | None, Dtype, KernelPath, str, str]
# Scores are kept with this number of digits, rounded up: a set then only grows.
_DIGITS = 6


class SetScores(ClosedModel):
    """By which thresholds the prediction sets of some images become right."""

    label: str | None
    """The label of these images; null if they have different ones, or several."""
    images: Annotated[int, Field(ge=1)]
    """The number of images."""
    scores: list[Annotated[float, Field(gt=0, le=1)]]
    """The scores that are not 0, in ascending order: a set contains a label if its score is at most the threshold."""
    weights: list[Annotated[float, Field(gt=0, le=1)]] = []  # noqa: RUF012  pydantic copies it
    """The fraction of the labels of its image that each score is for; empty if each is 1."""

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.scores != sorted(self.scores) or len(self.weights) not in (0, len(self.scores)):
            raise ValueError("scores must be in ascending order, each with its weight")
        if not self.weights and len(self.scores) > self.images:
            raise ValueError(f"{self.images} images must have at most that many scores, found {len(self.scores)}")
        return self

    def missed(self, threshold: float) -> float:
        """How many labels these images miss, each counted as a fraction of the labels of its image."""
        weights = self.weights or [1.0] * len(self.scores)
        return math.fsum(weight for score, weight in zip(self.scores, weights, strict=True) if score > threshold)

    def threshold(self, coverage: float) -> float:
        """The smallest threshold whose sets have this coverage on average; infinite if there are too few images."""
        may_miss = (1 - coverage) * (self.images + 1) - 1 + 1e-9
        if may_miss < 0:
            return math.inf
        weights = self.weights or [1.0] * len(self.scores)
        # What is missed if the threshold is just below each score, from the largest down.
        missed = list(accumulate(reversed(weights)))
        cut = sum(one <= may_miss for one in missed)
        return self.scores[-cut - 1] if cut < len(self.scores) else 0.0


class Calibration(ClosedModel):
    """What the calibration images say about one way of running the model."""

    machine: Machine
    """The machine that was measured."""
    isa: InstructionSet | None
    """The instruction set that decided which kernels ran; null on a CPU older than AVX2."""
    compute: ComputeField
    """The precision that the model computed in where it does not compute in 8 bits, for example ``auto:bf16``."""
    kernels: KernelPath
    """``batch``: with the kernels for batches. ``single``: with those for single images."""
    source: str
    """The images: for example the split of the run."""
    sets: Annotated[list[SetScores], Field(min_length=1)]
    """The scores by label if each image has one label; else one entry for all images."""

    @property
    def way(self) -> KernelWay:
        """What decides which kernels run."""
        return self.isa, self.compute.dtype, self.kernels, self.machine.openvino, self.machine.device

    @property
    def images(self) -> int:
        """The number of images."""
        return sum(one.images for one in self.sets)

    def by_label(self, task: Task, coverage: float) -> bool:
        """Whether the coverage is that of each label: then each has enough images for a threshold of its own."""
        known = {one.label: one.images for one in self.sets}
        needed = images_needed(max(coverage, COVERAGE), CONFIDENCE)  # with fewer, sets become large
        return task.one_label and all(known.get(name, 0) >= needed for name in task.labels.names)

    @property
    def pooled(self) -> SetScores:
        """All images together."""
        if len(self.sets) == 1:
            return self.sets[0]
        scores = sorted(score for one in self.sets for score in one.scores)
        return SetScores(label=None, images=self.images, scores=scores)

    def too_few(self, coverage: float) -> str | None:
        """Why no set has this coverage, in words; None if there are enough images."""
        needed = images_needed(coverage)
        return None if self.images >= needed else f"{self.images:,} calibration images, and sets need {needed:,}"

    def guarantee(self, task: Task, coverage: float) -> str:
        """What is guaranteed for the prediction sets of new images from the same source, in a sentence."""
        by_label, every = self.by_label(task, coverage), self.pooled
        if every.weights:
            missed = f"prediction sets miss at most {100 * (1 - coverage):.3g} % of the labels of an image"
            return f"{missed}, on average over calibration sets ({self.images:,} images)"
        parts = self.sets if by_label else [every]
        level = 1 - (1 - CONFIDENCE) / len(parts)  # Bonferroni: together they err in 5 %
        least = min(coverage_at_least(one, coverage, level) for one in parts)
        each, images = " of each label" * by_label, f"{min(one.images for one in parts):,} images"
        sets = f"prediction sets {task.right_set} for {100 * coverage:.3g} % of images{each}"
        confident = f"at least {math.floor(1000 * least) / 10:g} % with {100 * CONFIDENCE:g} % confidence"
        return f"{sets} on average over calibration sets, and for {confident} ({images}{each})"

    def thresholds(self, task: Task, coverage: float) -> NDArray[np.float32]:
        """One a label, in the order of the logits. Shape: [C]."""
        if self.by_label(task, coverage):
            known = {one.label: one.threshold(coverage) for one in self.sets}
            return np.array([known[name] for name in task.labels.names], np.float32)
        return np.full(len(task.labels), self.pooled.threshold(coverage), np.float32)


def set_scores(task: Task, logits_NC: Floats, targets_NC: Floats) -> list[SetScores]:
    """The scores of calibration images, by label if each image has one. Shape: [N, C] each."""
    scores_NC = task.set_scores(logits_NC, targets_NC)
    if not task.one_label:
        weights_N = 1 / task.set_labels(targets_NC)
        found = [(_up(scores_NC[row, column]), weights_N[row]) for row, column in np.argwhere(scores_NC > 0).tolist()]
        return [_of(None, len(scores_NC), sorted(found))]
    rows_N, largest_N = targets_NC.argmax(axis=1), scores_NC.max(axis=1)
    return [
        _of(name, int((rows_N == row).sum()), sorted((_up(one), 1.0) for one in largest_N[rows_N == row] if one > 0))
        for row, name in enumerate(task.labels.names)
        if (rows_N == row).any()
    ]


def _of(label: str | None, images: int, found: Sequence[tuple[float, float]]) -> SetScores:
    weights = [float(weight) for _, weight in found]
    return SetScores(
        label=label,
        images=images,
        scores=[score for score, _ in found],
        weights=[] if all(weight == 1 for weight in weights) else weights,
    )


def _up(score: float) -> float:
    """Rounded up, at most 1."""
    step = 10.0**-_DIGITS
    return min(1.0, round(math.ceil(score / step) * step, _DIGITS))


def images_needed(coverage: float, confidence: float = 0.0) -> int:
    """The number of images for sets with this coverage, on average or with a confidence: 19 and 59 for 95 %."""
    on_average = math.ceil(coverage / (1 - coverage) - 1e-9)
    return max(on_average, math.ceil(math.log(1 - confidence) / math.log(coverage) - 1e-9))


def coverage_at_least(scores: SetScores, coverage: float, confidence: float = CONFIDENCE) -> float:
    """The fraction of new images whose sets contain their label, at least, with this confidence for these images.

    With k scores at most the threshold, it is the quantile of Beta(k, n + 1 - k).
    """
    missed = scores.missed(scores.threshold(coverage))
    return 1.0 - fraction_at_most(missed, scores.images, confidence)
