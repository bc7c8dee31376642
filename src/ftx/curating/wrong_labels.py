"""From the logits of probes that were not trained on an image to its probably wrong labels.

Each group of mutually exclusive classes is judged by itself, and each independent label as two classes: yes and no.

Shapes: N images, C labels in the order of the logits, K mutually exclusive classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ftx.core.closed_model import ClosedModel
from ftx.core.statistics import wilson_interval
from ftx.curating.confident_learning import Probabilities, Suspects, self_confidence, suspects
from ftx.curating.probes import FOLDS
from ftx.data.hamming_join import RowNumbers
from ftx.tasks.base import Targets, Task
from ftx.tasks.labels import Labels


class LabelJudgement(ClosedModel):
    """How well the probe recognizes one label."""

    name: str
    """The label."""
    images: int
    """The number of images with this label."""
    subjects: int
    """The number of different pictures among them: near-duplicates count once."""
    found: float
    """The fraction of these images for which the probe predicts the label, from 0 to 1."""
    mistaken: float
    """The fraction of the other images for which the probe predicts the label, from 0 to 1."""
    suspected: int
    """The number of images on which this label is probably wrong."""
    unproved: str = ""
    """Why the issues of this label are not reliable; empty if they are."""


@dataclass(frozen=True)
class Suspicion:
    """An image whose labels are probably others; ``unproved`` if the probe cannot be trusted with one of them."""

    row: int
    suggested: tuple[str, ...]
    score: float
    unproved: str


@dataclass(frozen=True)
class Judgement:
    """All suspicions, the most probable first, and how well the probe recognizes each label."""

    suspicions: list[Suspicion]
    labels: list[LabelJudgement]

    @property
    def possible(self) -> bool:
        """Whether any label can be judged."""
        return not all(one.unproved for one in self.labels)


@dataclass(frozen=True)
class _Exclusive:
    """Mutually exclusive classes, on the images that have one of them; of an independent label they are yes and no."""

    names: tuple[str, ...]
    rows_M: RowNumbers
    probability_MK: Probabilities
    given_M: RowNumbers


def judge(
    logits_NC: NDArray[np.float32],
    targets_NC: Targets,
    task: Task,
    given: Sequence[tuple[str, ...]],
    subjects: Sequence[str],
) -> Judgement:
    """Confident learning on each set of mutually exclusive classes; ``given`` are the labels of each image."""
    labels = task.labels
    judged: dict[str, LabelJudgement] = {}
    changes: dict[int, list[tuple[str, str, float, str]]] = {}
    for exclusive in _exclusive_labels(task.scores(logits_NC).astype(np.float64), targets_NC, labels):
        found = suspects(exclusive.probability_MK, exclusive.given_M)
        reports = _judged(exclusive, found, subjects)
        judged |= {one.name: one for one in reports}
        if all(one.unproved for one in reports):
            continue
        reasons = dict.fromkeys(exclusive.names, "") | {one.name: one.unproved for one in reports}
        confidence_M = self_confidence(exclusive.probability_MK, exclusive.given_M)
        for index in np.flatnonzero(found.wrong_N).tolist():
            wrong, correct = exclusive.names[exclusive.given_M[index]], exclusive.names[found.other_N[index]]
            change = wrong, correct, float(confidence_M[index]), reasons[wrong] or reasons[correct]
            changes.setdefault(int(exclusive.rows_M[index]), []).append(change)
    probable = _Probable(labels, logits_NC)
    suspicions = [
        Suspicion(row, suggested, min(score for *_, score, _ in each), next((why for *_, why in each if why), ""))
        for row, each in changes.items()
        if set(suggested := probable.relabelled(row, given[row], each)) != set(given[row])
    ]
    ordered = [judged[name] for name in labels.names if name in judged]
    return Judgement(sorted(suspicions, key=lambda one: (one.score, one.row)), ordered)


def _exclusive_labels(scores_NC: Probabilities, targets_NC: Targets, labels: Labels) -> list[_Exclusive]:
    found: list[_Exclusive] = []
    for group in labels.groups:
        columns = [labels.index(name) for name in group]
        known_N = targets_NC[:, columns].any(axis=1)
        given_M = targets_NC[known_N][:, columns].argmax(axis=1)
        found.append(_Exclusive(group, np.flatnonzero(known_N), scores_NC[known_N][:, columns], given_M))
    for name in labels.singles:
        score_N, holds_N = scores_NC[:, labels.index(name)], targets_NC[:, labels.index(name)] > 0
        probability_N2 = np.stack([score_N, 1 - score_N], axis=1)
        found.append(_Exclusive((name, ""), np.arange(len(score_N)), probability_N2, (~holds_N).astype(np.intp)))
    return [one for one in found if len(one.rows_M)]


def _judged(exclusive: _Exclusive, found: Suspects, subjects: Sequence[str]) -> list[LabelJudgement]:
    """Whether the probe recognizes each label for certain: otherwise its suspicions are worth nothing."""
    reports: list[LabelJudgement] = []
    for column, name in enumerate(exclusive.names):
        own_M = exclusive.given_M == column
        if not name:  # the "no" of an independent label is no label
            continue
        images, others = int(own_M.sum()), int((~own_M).sum())
        # Given to an image where the probe is surer of it than its frequency: then a rare label counts as a common one.
        predicted_M = exclusive.probability_MK[:, column] > own_M.mean()
        hits, mistakes = int(predicted_M[own_M].sum()), int(predicted_M[~own_M].sum())
        pictures = [_by_subject(predicted_M[side_M], exclusive.rows_M[side_M], subjects) for side_M in (own_M, ~own_M)]
        reports.append(
            LabelJudgement(
                name=name,
                images=images,
                subjects=pictures[0].subjects,
                found=round(hits / max(images, 1), 4),
                mistaken=round(mistakes / max(others, 1), 4),
                suspected=int(found.wrong_N[own_M].sum()),
                unproved=_unproved(*pictures),
            )
        )
    return reports


@dataclass(frozen=True)
class _PredictedSubjects:
    """For how many subjects the probe predicts a label; a subject with several images counts by their fraction."""

    hits: float
    subjects: int


def _by_subject(predicted_M: NDArray[np.bool_], rows_M: RowNumbers, subjects: Sequence[str]) -> _PredictedSubjects:
    """Copies of one picture are correct or wrong together: they are one trial."""
    images: dict[str, list[bool]] = {}
    for row, predicted in zip(rows_M, predicted_M, strict=True):
        images.setdefault(subjects[int(row)], []).append(bool(predicted))
    return _PredictedSubjects(sum(sum(each) / len(each) for each in images.values()), len(images))


def _unproved(own: _PredictedSubjects, others: _PredictedSubjects) -> str:
    if own.subjects < FOLDS:  # one to be judged in each fold, and four to learn from
        return f"{own.subjects} different images of it, at least {FOLDS} are needed"
    if others.subjects < FOLDS:
        return f"{others.subjects} different images without it, at least {FOLDS} are needed"
    if wilson_interval(own.hits, own.subjects)[0] <= wilson_interval(others.hits, others.subjects)[1]:
        found, mistaken = own.hits / own.subjects, others.hits / others.subjects
        return (
            f"the probe calls {found:.0%} of its {own.subjects} different images so and {mistaken:.0%} of the "
            f"{others.subjects} others: perhaps by chance"
        )
    return ""


@dataclass(frozen=True)
class _Probable:
    """The labels that images would have after changes, a tree's kept whole."""

    labels: Labels
    logits_NC: NDArray[np.float32]

    def relabelled(
        self, row: int, given: tuple[str, ...], changes: Sequence[tuple[str, str, float, str]]
    ) -> tuple[str, ...]:
        """Replace each wrong label and all below it by the correct one; the upper levels of a tree go first."""
        path = self.labels.path
        kept = list(given)
        for wrong, correct, *_ in sorted(changes, key=lambda one: len(path(one[0] or one[1]))):
            held = {above for name in kept for above in path(name)}
            if wrong and wrong not in held:  # went with what stood above it
                continue
            if correct and not set(path(correct)[:-1]) <= held - {wrong}:  # its parent is missing
                continue
            below = [name for name in kept if wrong and wrong in path(name)]
            deep = any(name != wrong for name in below)
            kept = [name for name in kept if name not in below]
            if wrong and (up := self.labels.parents.get(wrong)) and not correct:
                kept += [up] if not any(up in path(name) for name in kept) else []
            if correct:
                new = self._likeliest_below(row, correct) if deep else correct
                kept = [name for name in kept if name not in path(new)] + [new]
        return tuple(sorted(kept, key=self.labels.index))

    def _likeliest_below(self, row: int, name: str) -> str:
        """The leaf that the probe would come to from here, where what was wrong was known beyond its own level."""
        for group in self.labels.groups:
            if all(self.labels.parents.get(one) == name for one in group):
                columns = [self.labels.index(one) for one in group]
                best = group[int(self.logits_NC[row, columns].argmax())]
                return self._likeliest_below(row, best)
        return name
