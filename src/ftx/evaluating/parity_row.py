"""The numbers of one row: an artifact's logits against the reference's, held to their bound.

Shapes: N images, C labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ftx.core.statistics import PairedCounts, wilson_interval
from ftx.evaluating.logit_bounds import Bound, coarsest_rounding
from ftx.runs.artifacts import Artifact
from ftx.runs.compute_precision import ComputePrecision
from ftx.runs.instruction_sets import Kernels
from ftx.runs.parity_json import RowBound, Unit, View
from ftx.tasks.base import Targets, Task
from ftx.tasks.thresholds import Flags, Floats

WORST_NAMED = 5


@dataclass(frozen=True)
class Reference:
    """Images by name, the trained model's logits for them, and the truth.

    Shape: logits [N, C], targets [labelled, C].

    ``targets`` may be shorter than the images: what follows has no truth and does not count in accuracies.
    ``groups`` names what each image is of (a patient, a part), where any image is of a group; else it is empty.
    ``clear`` is there of a model that drops patches, and false for an image of which it keeps one by less than rounding
    in f32 may move: another runtime may keep another. Shape: [N].
    """

    names: tuple[str, ...]
    logits: Floats
    targets: Targets
    task: Task
    groups: tuple[str, ...] = ()
    clear: Flags | None = None

    @property
    def drops_patches(self) -> bool:
        return self.clear is not None

    @property
    def labelled(self) -> int:
        return len(self.targets)


def rows_of(reference: Reference, rows: Sequence[int]) -> Reference:
    """Some of a reference's images."""
    some = list(rows)
    return replace(
        reference,
        names=tuple(reference.names[row] for row in some),
        logits=reference.logits[some],
        targets=reference.targets[[row for row in some if row < reference.labelled]],
        groups=tuple(reference.groups[row] for row in some) if reference.groups else (),
        clear=None if reference.clear is None else reference.clear[some],
    )


@dataclass(frozen=True)
class Subject:
    """What is compared, and how it was asked."""

    artifact: Artifact
    view: View
    compute: ComputePrecision
    # Zero where nobody asks for it.
    latency_ms: float = 0.0
    # OpenVINO's.
    kernels: Kernels | None = None

    def __str__(self) -> str:
        held = f", held to {self.kernels.isa}" if self.kernels and self.kernels.emulated else ""
        return f"{self.artifact} ({self.artifact.runtime}, {self.view} view, {self.compute}{held})"


@dataclass(frozen=True)
class _Gap:
    """How far an artifact's logits, and the labels by them, lie from the reference's.

    The first three are over the images that are held to a bound, and None where a logit is not finite. ``distance`` is
    the largest difference of a logit of each image, ``agreement`` how far its labels agree, in [0, 1]. Shape: [N] both.
    """

    max_abs: float | None
    mean_abs: float | None
    cosine: float | None
    distance: NDArray[np.float64]
    # NaN where neither model gives the image a label. Such images would count as agreement, so a model that never
    # gives a label would look right wherever most images have none.
    agreement: NDArray[np.float64]

    @property
    def mean_agreement(self) -> float:
        """Over the images that either model gives a label; 1 where there are none."""
        labelled = self.agreement[~np.isnan(self.agreement)]
        return float(labelled.mean()) if len(labelled) else 1.0


@dataclass(frozen=True)
class Compared:
    """One row before its verdict, which hangs on the other rows as well.

    ``exceeded`` says in words each bound on logits that does not hold, ``tied`` how many images are held to none.
    ``labels`` are the labelled units, ``changes`` all units by whether their labels changed, ``worst_class`` the label
    that lost the largest share of its units.
    """

    subject: Subject
    images: int
    tied: int
    max_abs: float | None
    mean_abs: float | None
    cosine: float | None
    agreement: float
    accuracy: tuple[float, float, float] | None
    bound: RowBound
    exceeded: tuple[str, ...]
    unit: Unit
    labels: PairedCounts
    changes: PairedCounts
    worst_class: tuple[str, PairedCounts] | None
    worst: tuple[str, ...]


def compare(reference: Reference, logits_NC: Floats, subject: Subject, bound: Bound) -> Compared:
    """Measure one row, and hold its logits to their bound.

    Shape: logits [N, C], for the images of the reference in order.
    """
    held_N = _held(reference, subject)
    images = reference.labelled or len(reference.names)
    gap = _gap(reference, logits_NC, held_N)
    held = RowBound(max_abs=bound.max_abs_for(_largest(reference.logits)), cosine=bound.cosine, reason=bound.reason)
    was_right, is_right = (_right(reference, logits) for logits in (reference.logits, logits_NC))
    changed = np.nan_to_num(gap.agreement, nan=1.0) < 1
    # What is held to a bound first; of that what is not finite, then what changed its label, then the furthest.
    order = np.lexsort((-gap.distance, np.nan_to_num(gap.agreement, nan=1.0), ~held_N))
    interval = wilson_interval(int(is_right.sum()), len(is_right))
    return Compared(
        subject=subject,
        images=images,
        tied=int((~held_N[:images]).sum()),
        max_abs=gap.max_abs,
        mean_abs=gap.mean_abs,
        cosine=gap.cosine,
        agreement=gap.mean_agreement,
        accuracy=(float(is_right.mean()), *interval) if len(is_right) else None,
        bound=held,
        exceeded=tuple(_exceeded(gap, held)),
        unit="group" if reference.groups else "image",
        labels=_paired(reference, was_right, is_right),
        changes=_paired(reference, np.ones_like(changed), ~changed),
        worst_class=_worst_class(reference, logits_NC),
        worst=tuple(reference.names[index] for index in order[:WORST_NAMED]),
    )


def _held(reference: Reference, subject: Subject) -> Flags:
    """Whose logits are held to a bound: in f32 those of images that both models see the same patches of. Shape: [N].

    A coarser rounding keeps other patches of most images, and its bounds have room for that.
    """
    exact = coarsest_rounding(subject.artifact, subject.compute) == "fp32"
    if reference.clear is None or not exact or not reference.clear.any():
        return np.ones(len(reference.names), bool)
    return reference.clear


def _paired(reference: Reference, was_N: Flags, is_N: Flags, chosen_N: Flags | None = None) -> PairedCounts:
    """Count what was right and is not, and the other way round, of all or the chosen of the first N images.

    A group counts as one, and an image of it as its share of the group's chosen ones.
    """
    chosen = np.arange(len(was_N)) if chosen_N is None else np.flatnonzero(chosen_N)
    lost_N, gained_N = (was_N & ~is_N)[chosen], (~was_N & is_N)[chosen]
    if not reference.groups:
        return PairedCounts(int(lost_N.sum()), int(gained_N.sum()), len(chosen))
    # The images behind the labelled ones are tinted copies of some of them, in the groups of those.
    keys = [reference.groups[index] for index in chosen]
    _, of_group, sizes = np.unique(keys, return_inverse=True, return_counts=True)
    share_N = 1 / sizes[of_group]
    return PairedCounts(float(share_N[lost_N].sum()), float(share_N[gained_N].sum()), len(sizes))


def _worst_class(reference: Reference, logits_NC: Floats) -> tuple[str, PairedCounts] | None:
    """The label that lost the largest share of its images, of several the rarest; None where none lost any."""
    count, task = reference.labelled, reference.task
    if not count:
        return None
    finite_N = _finite(logits_NC[:count])
    was_NC = task.predicted(reference.logits[:count])
    is_NC = task.predicted(np.where(finite_N[:, None], logits_NC[:count], 0)) & finite_N[:, None]
    found = [
        (name, _paired(reference, was_NC[:, row], is_NC[:, row], reference.targets[:, row] > 0))
        for row, name in enumerate(task.labels.names)
    ]
    fewer = [(name, units) for name, units in found if units.drop > 0]
    return max(fewer, key=lambda item: (item[1].drop, -item[1].units), default=None)


def _gap(reference: Reference, logits_NC: Floats, held_N: Flags) -> _Gap:
    if logits_NC.shape != reference.logits.shape:
        raise AssertionError(f"{logits_NC.shape} logits for {reference.logits.shape}")
    finite_N = _finite(logits_NC) & _finite(reference.logits)
    answer_NC, truth_NC = (
        np.where(finite_N[:, None], logits, 0).astype(np.float64) for logits in (logits_NC, reference.logits)
    )
    difference_NC = np.abs(answer_NC - truth_NC)
    distance_N = np.where(finite_N, difference_NC.max(axis=1), np.inf)
    called = [reference.task.predicted(logits.astype(np.float32)) for logits in (answer_NC, truth_NC)]
    whole = bool(finite_N.all())
    return _Gap(
        max_abs=float(difference_NC[held_N].max()) if whole else None,
        mean_abs=float(difference_NC[held_N].mean()) if whole else None,
        cosine=float(_cosine(answer_NC[held_N], truth_NC[held_N]).mean()) if whole else None,
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
    return reference.task.correct(np.where(finite_N[:, None], head_NC, 0), reference.targets) & finite_N


def _finite(logits_NC: Floats) -> NDArray[np.bool_]:
    """Shape: [N]."""
    return np.asarray(np.isfinite(logits_NC).all(axis=1))


def _largest(logits_NC: Floats) -> float:
    finite = logits_NC[np.isfinite(logits_NC)]
    return float(np.abs(finite).max()) if finite.size else 0.0


def _exceeded(gap: _Gap, held: RowBound) -> list[str]:
    if strange := int(np.isinf(gap.distance).sum()):
        return [f"logits of {strange} images are not finite numbers"]
    return held.exceeded(gap.max_abs, gap.cosine)
