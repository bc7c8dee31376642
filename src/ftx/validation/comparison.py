"""The numbers of one row: an artifact's logits against the reference's, held to a bound.

Shapes: N images, C labels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ftx.runtimes.base import RuntimeName
from ftx.statistics import drop_p_value, wilson_interval
from ftx.tasks import Task
from ftx.tasks.base import Flags, Floats, Targets
from ftx.validation.report import ParityRow, RowBound
from ftx.validation.tolerance import Bound, View

WORST_NAMED = 5
# A drop fails where chance would show it in fewer than one of a hundred rows, as a validation has a dozen. (At 5 %, by
# the normal approximation, 4 of 128 images failed an int8 model that lost 0.6 points on 500.)
CHANCE = 0.01


@dataclass(frozen=True)
class Reference:
    """Images by name, the trained model's logits for them, and the truth.

    Shape: logits [N, C], targets [labelled, C].

    ``targets`` may be shorter than the images: what follows has no truth and does not count in accuracies.
    """

    names: tuple[str, ...]
    logits: Floats
    targets: Targets
    task: Task

    @property
    def labelled(self) -> int:
        return len(self.targets)


@dataclass(frozen=True)
class Subject:
    """What is compared, and how it was asked."""

    artifact: str
    runtime: RuntimeName
    view: View
    compute: str
    latency_ms: float

    def __str__(self) -> str:
        return f"{self.artifact} ({self.runtime}, {self.view} view, {self.compute})"


@dataclass(frozen=True)
class _Gap:
    max_abs: float | None
    mean_abs: float | None
    cosine: float | None
    # Per image: the largest difference of a logit, and how far the labels agree, in [0, 1]. Shape: [N].
    distance: NDArray[np.float64]
    # NaN where neither calls a label: of images without any a model that calls nothing would live.
    agreement: NDArray[np.float64]

    @property
    def told(self) -> NDArray[np.float64]:
        """Agreement on the images that either gives a label. Shape: [those]."""
        return self.agreement[~np.isnan(self.agreement)]

    @property
    def agrees(self) -> float:
        """The mean of it; 1 where no image has a label."""
        return float(self.told.mean()) if len(self.told) else 1.0


def compare(reference: Reference, logits_NC: Floats, subject: Subject, bound: Bound) -> tuple[ParityRow, list[str]]:
    """One row, and in words each bound that it passes.

    Shape: logits [N, C], for the images of the reference in order.
    """
    gap = _gap(reference, logits_NC)
    held = RowBound(
        max_abs=bound.max_abs_for(_largest(reference.logits)),
        cosine=bound.cosine,
        agreement=bound.agreement,
        accuracy_drop=bound.accuracy_drop,
        reason=bound.reason,
    )
    was_right, is_right = (_right(reference, logits) for logits in (reference.logits, logits_NC))
    labels = _label_faults(gap, held, was_right, is_right)
    faults = _distance_faults(gap, held) + labels.faults
    # Not finite first, then what changed its label, then the furthest.
    order = np.lexsort((-gap.distance, np.nan_to_num(gap.agreement, nan=1.0)))
    worst = [reference.names[index] for index in order[:WORST_NAMED]]
    low, high = wilson_interval(int(is_right.sum()), len(is_right))
    known = len(is_right) > 0
    row = ParityRow(
        artifact=subject.artifact,
        runtime=subject.runtime,
        view=subject.view,
        compute=subject.compute,
        images=reference.labelled or len(reference.names),
        max_abs=gap.max_abs,
        mean_abs=gap.mean_abs,
        cosine=gap.cosine,
        agreement=gap.agrees,
        accuracy=float(is_right.mean()) if known else None,
        accuracy_low=low if known else None,
        accuracy_high=high if known else None,
        latency_ms=subject.latency_ms,
        bound=held,
        ok=not faults,
        unsure=labels.unsure,
        worst=worst,
    )
    return row, [f"{subject}: {fault}; worst: {', '.join(worst[:3])}" for fault in faults]


def _gap(reference: Reference, logits_NC: Floats) -> _Gap:
    if logits_NC.shape != reference.logits.shape:
        raise AssertionError(f"{logits_NC.shape} logits for {reference.logits.shape}")
    finite_N = _finite(logits_NC) & _finite(reference.logits)
    answer_NC, truth_NC = (
        np.where(finite_N[:, None], logits, 0).astype(np.float64) for logits in (logits_NC, reference.logits)
    )
    difference_NC = np.abs(answer_NC - truth_NC)
    distance_N = np.where(finite_N, difference_NC.max(axis=1), np.inf)
    called = [reference.task.called(logits.astype(np.float32)) for logits in (answer_NC, truth_NC)]
    whole = bool(finite_N.all())
    return _Gap(
        max_abs=float(difference_NC.max()) if whole else None,
        mean_abs=float(difference_NC.mean()) if whole else None,
        cosine=float(_cosine(answer_NC, truth_NC).mean()) if whole else None,
        distance=distance_N,
        agreement=np.where(finite_N, dice(*called), 0.0),
    )


def dice(one_NC: Flags, other_NC: Flags) -> NDArray[np.float64]:
    """How far two sets of labels agree: the share of labels that are in both; NaN for two empty ones. Shape: [N].

    With one label each it is 1 for the same and 0 for another.
    Source: Dice, Ecology 26 (1945) 297-302: 2 |A and B| / (|A| + |B|).
    """
    both_N, sizes_N = (one_NC & other_NC).sum(axis=1), one_NC.sum(axis=1) + other_NC.sum(axis=1)
    return np.where(sizes_N > 0, 2 * both_N / np.maximum(sizes_N, 1), np.nan)


def _cosine(a_NC: NDArray[np.float64], b_NC: NDArray[np.float64]) -> NDArray[np.float64]:
    """Shape: [N]; two rows of zeros are alike, one beside another is not."""
    lengths_N = np.linalg.norm(a_NC, axis=1) * np.linalg.norm(b_NC, axis=1)
    both_zero_N = (np.abs(a_NC).max(axis=1) == 0) & (np.abs(b_NC).max(axis=1) == 0)
    products_N = (a_NC * b_NC).sum(axis=1)
    return np.where(lengths_N > 0, products_N / np.where(lengths_N > 0, lengths_N, 1), both_zero_N)


def _right(reference: Reference, logits_NC: Floats) -> NDArray[np.bool_]:
    """Whether each labelled image is right; an answer that is not finite is wrong. Shape: [labelled]."""
    head_NC = logits_NC[: reference.labelled]
    finite_N = _finite(head_NC)
    return reference.task.right(np.where(finite_N[:, None], head_NC, 0), reference.targets) & finite_N


def _finite(logits_NC: Floats) -> NDArray[np.bool_]:
    """Shape: [N]."""
    return np.asarray(np.isfinite(logits_NC).all(axis=1))


def _largest(logits_NC: Floats) -> float:
    finite = logits_NC[np.isfinite(logits_NC)]
    return float(np.abs(finite).max()) if finite.size else 0.0


def _distance_faults(gap: _Gap, held: RowBound) -> list[str]:
    if gap.max_abs is None or gap.cosine is None:
        return [f"logits of {int(np.isinf(gap.distance).sum())} images are not finite numbers"]
    faults: list[str] = []
    if held.max_abs is not None and gap.max_abs > held.max_abs:
        faults.append(f"a logit is off by {gap.max_abs:.3g}, the bound is {held.max_abs:.3g}")
    if held.cosine is not None and gap.cosine < held.cosine:
        faults.append(f"the mean cosine is {gap.cosine:.5f}, the bound is {held.cosine:.5f}")
    return faults


@dataclass(frozen=True)
class _Judged:
    """What of a measure lies beyond its bound: surely, or on too few images to tell."""

    faults: list[str]
    unsure: list[str]


def _label_faults(gap: _Gap, held: RowBound, was_right_N: NDArray[np.bool_], is_right_N: NDArray[np.bool_]) -> _Judged:
    judged = _Judged([], [])
    if held.agreement is not None and gap.agrees < held.agreement:
        # For shares between 0 and 1 the interval is wider than it need be, as they vary less than yes and no.
        likely_most = wilson_interval(float(gap.told.sum()), len(gap.told))[1]
        where = judged.faults if likely_most < held.agreement else judged.unsure
        where.append(
            f"labels agree to {gap.agrees:.1%} (at most {likely_most:.1%} with 95 % confidence), the bound is "
            f"{held.agreement:.1%}"
        )
    if held.accuracy_drop is not None and len(is_right_N):
        count = len(is_right_N)
        lost, gained = int((was_right_N & ~is_right_N).sum()), int((~was_right_N & is_right_N).sum())
        if (lost - gained) / count > held.accuracy_drop:
            chance = drop_p_value(lost, gained, count, held.accuracy_drop)
            where = judged.faults if chance < CHANCE else judged.unsure
            where.append(
                f"accuracy drops by {100 * (lost - gained) / count:.2f} points ({lost} of {count} images lost, "
                f"{gained} gained; by chance with p = {chance:.1g}), the bound is {100 * held.accuracy_drop:.2f}"
            )
    return judged
