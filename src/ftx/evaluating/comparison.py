"""The figures of one row: an artifact's logits against the trained model's.

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
from ftx.runs.machine import Kernels
from ftx.runs.parity_json import RowBound, Unit
from ftx.runs.views import View
from ftx.tasks.base import Targets, Task
from ftx.tasks.thresholds import Flags, Floats

WORST_NAMED = 5


@dataclass(frozen=True)
class Reference:
    """Images by name, the trained model's logits for them, and the truth.

    Shape: logits [N, C], targets [labelled, C].

    ``targets`` may be shorter than the images: the other images have no truth and do not count in accuracies.
    ``groups`` names what each image is of (a patient, a part), if any image is of a group; else it is empty.
    ``clear`` is only set for a model that drops patches. It is false for an image of which it keeps one by less than
    rounding in f32 may change: another runtime may keep another. Shape: [N].
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

    def take(self, rows: Sequence[int]) -> Reference:
        """Some of the images."""
        some = list(rows)
        return replace(
            self,
            names=tuple(self.names[row] for row in some),
            logits=self.logits[some],
            targets=self.targets[[row for row in some if row < self.labelled]],
            groups=tuple(self.groups[row] for row in some) if self.groups else (),
            clear=None if self.clear is None else self.clear[some],
        )

    def followed_by(self, more: Reference) -> Reference:
        """These images and then others, which have no truth."""
        return replace(
            self,
            names=self.names + more.names,
            logits=np.concatenate([self.logits, more.logits]),
            groups=self.groups + more.groups,
            clear=None if self.clear is None or more.clear is None else np.concatenate([self.clear, more.clear]),
        )


@dataclass(frozen=True)
class Subject:
    """What is compared, and how it was run."""

    artifact: Artifact
    view: View
    compute: ComputePrecision
    # Zero if it was not measured.
    latency_ms: float = 0.0
    # OpenVINO's.
    kernels: Kernels | None = None

    def __str__(self) -> str:
        limit = f", limited to {self.kernels.isa}" if self.kernels and self.kernels.emulated else ""
        return f"{self.artifact} ({self.artifact.runtime}, {self.view} view, {self.compute.title}{limit})"


@dataclass(frozen=True)
class Comparison:
    """One row before its verdict, which depends on the other rows too.

    ``exceeded`` has a message for each bound on logits that is exceeded. ``tied`` images have no bound. The differences
    are over the images with a bound, and None if a logit is not finite.
    ``labels`` are the labelled units, ``changes`` all units by whether their labels changed, ``worst_class`` the label
    that lost the largest fraction of its units.
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


def compare(reference: Reference, logits_NC: Floats, subject: Subject, bound: Bound) -> Comparison:
    """Measure one row, and compare its logits with their bound.

    Shape: logits [N, C], for the images of the reference in order.
    """
    assert logits_NC.shape == reference.logits.shape, f"{logits_NC.shape} logits for {reference.logits.shape}"
    finite_N = _finite(logits_NC) & _finite(reference.logits)
    found_NC, expected_NC = (
        np.where(finite_N[:, None], logits, 0).astype(np.float64) for logits in (logits_NC, reference.logits)
    )
    difference_NC = np.abs(found_NC - expected_NC)
    distance_N = np.where(finite_N, difference_NC.max(axis=1), np.inf)
    found_labels_NC, expected_labels_NC = (
        reference.task.predicted(logits.astype(np.float32)) for logits in (found_NC, expected_NC)
    )
    # Images that neither model gives a label count as unchanged, and not as agreement: a model that never gives a
    # label would look right wherever most images have none.
    agreement_N = np.where(finite_N, dice(found_labels_NC, expected_labels_NC), 0.0)
    given_N, unchanged_N = ~np.isnan(agreement_N), np.nan_to_num(agreement_N, nan=1.0)
    bound_N, whole = _with_bound(reference, subject), bool(finite_N.all())
    max_abs = float(difference_NC[bound_N].max()) if whole else None
    cosine = float(_cosine(found_NC[bound_N], expected_NC[bound_N]).mean()) if whole else None
    row_bound = RowBound(
        max_abs=bound.max_abs_for(float(np.abs(reference.logits[np.isfinite(reference.logits)]).max(initial=0.0))),
        cosine=bound.cosine,
        reason=bound.reason,
    )
    strange = f"logits of {int((~finite_N).sum())} images contain NaN or infinity"
    was_right_N, is_right_N = (_right(reference, logits) for logits in (reference.logits, logits_NC))
    images = reference.labelled or len(reference.names)
    # The images with a bound first; of these the ones that are not finite, then those whose label changed, then the
    # furthest.
    order = np.lexsort((-distance_N, unchanged_N, ~bound_N))
    return Comparison(
        subject=subject,
        images=images,
        tied=int((~bound_N[:images]).sum()),
        max_abs=max_abs,
        mean_abs=float(difference_NC[bound_N].mean()) if whole else None,
        cosine=cosine,
        agreement=float(agreement_N[given_N].mean()) if given_N.any() else 1.0,
        accuracy=(float(is_right_N.mean()), *wilson_interval(int(is_right_N.sum()), len(is_right_N)))
        if len(is_right_N)
        else None,
        bound=row_bound,
        exceeded=tuple(row_bound.exceeded(max_abs, cosine)) if whole else (strange,),
        unit="group" if reference.groups else "image",
        labels=_paired(reference, was_right_N, is_right_N),
        changes=_paired(reference, np.ones_like(given_N), unchanged_N == 1),
        worst_class=_worst_class(reference, logits_NC),
        worst=tuple(reference.names[index] for index in order[:WORST_NAMED]),
    )


def _with_bound(reference: Reference, subject: Subject) -> Flags:
    """Whose logits have a bound: in f32 those of images of which both models see the same patches. Shape: [N].

    A coarser rounding keeps other patches of most images, and its bounds are wide enough for that.
    """
    exact = coarsest_rounding(subject.artifact, subject.compute) == "fp32"
    if reference.clear is None or not exact or not reference.clear.any():
        return np.ones(len(reference.names), bool)
    return reference.clear


def _paired(reference: Reference, was_N: Flags, is_N: Flags, chosen_N: Flags | None = None) -> PairedCounts:
    """Count what was right and is not, and the other way round, of all or the chosen of the first N images.

    A group counts as one, and an image of it as its fraction of the group's chosen ones.
    """
    chosen = np.arange(len(was_N)) if chosen_N is None else np.flatnonzero(chosen_N)
    lost_N, gained_N = (was_N & ~is_N)[chosen], (~was_N & is_N)[chosen]
    if not reference.groups:
        return PairedCounts(int(lost_N.sum()), int(gained_N.sum()), len(chosen))
    # The images after the labelled ones are tinted copies of some of them, in the groups of those.
    keys = [reference.groups[index] for index in chosen]
    _, of_group, sizes = np.unique(keys, return_inverse=True, return_counts=True)
    fraction_N = 1 / sizes[of_group]
    return PairedCounts(float(fraction_N[lost_N].sum()), float(fraction_N[gained_N].sum()), len(sizes))


def _worst_class(reference: Reference, logits_NC: Floats) -> tuple[str, PairedCounts] | None:
    """The label that lost the largest fraction of its images, of several the rarest; None if none lost any."""
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


def dice(one_NC: Flags, other_NC: Flags) -> NDArray[np.float64]:
    """How far two sets of labels agree: the fraction of labels that are in both; NaN for two empty ones. Shape: [N].

    With one label each it is 1 for the same and 0 for another.
    Source: Dice, Ecology 26 (1945) 297-302: 2 |A and B| / (|A| + |B|).
    """
    both_N, sizes_N = (one_NC & other_NC).sum(axis=1), one_NC.sum(axis=1) + other_NC.sum(axis=1)
    return np.where(sizes_N > 0, 2 * both_N / np.maximum(sizes_N, 1), np.nan)


def _cosine(a_NC: NDArray[np.float64], b_NC: NDArray[np.float64]) -> NDArray[np.float64]:
    """Shape: [N]; two rows of zeros have 1, a row of zeros and another have 0."""
    lengths_N = np.linalg.norm(a_NC, axis=1) * np.linalg.norm(b_NC, axis=1)
    both_zero_N = (np.abs(a_NC).max(axis=1) == 0) & (np.abs(b_NC).max(axis=1) == 0)
    products_N = (a_NC * b_NC).sum(axis=1)
    return np.where(lengths_N > 0, products_N / np.where(lengths_N > 0, lengths_N, 1), both_zero_N)


def _right(reference: Reference, logits_NC: Floats) -> Flags:
    """Whether each labelled image is right; a row of logits that is not finite is wrong. Shape: [labelled]."""
    head_NC = logits_NC[: reference.labelled]
    finite_N = _finite(head_NC)
    return reference.task.correct(np.where(finite_N[:, None], head_NC, 0), reference.targets) & finite_N


def _finite(logits_NC: Floats) -> Flags:
    """Shape: [N]."""
    return np.asarray(np.isfinite(logits_NC).all(axis=1))
