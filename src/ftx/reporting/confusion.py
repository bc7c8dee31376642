"""Which class is predicted instead of which, in each group of exclusive classes; and errors of independent labels.

Shapes: N images, G labels of one group.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ftx.evaluating.evaluate import confusion_matrix
from ftx.reporting.figures import heatmap
from ftx.reporting.held_out import HeldOutPredictions

# Labels whose matrix fits on a screen as a table; of more it is drawn, and the largest mistakes are listed.
TABLE_MOST = 20
MISTAKES = 20
# Cells of all tables of a page: of more, groups are shown only by their mistakes.
CELLS = 8_000


@dataclass(frozen=True)
class Mistake:
    """The number of images of one label for which another was predicted, and their fraction."""

    truth: str
    prediction: str
    images: int
    fraction: float


@dataclass(frozen=True)
class Confusion:
    """One group's matrix: ``counts[i][j]`` images of label i were predicted as j, the last column none of the group.

    ``parent`` is the label above the group in a tree. ``fractions`` are of the images of label i. ``drawn`` replaces
    both if there are too many labels; with neither, only mistakes are shown.
    """

    parent: str | None
    names: Sequence[str]
    predictions: Sequence[str]
    counts: list[list[int]]
    fractions: list[list[float]]
    mistakes: Sequence[Mistake]
    drawn: str | None


@dataclass(frozen=True)
class LabelErrors:
    """How often an independent label was predicted and not, on images that have it and that do not."""

    name: str
    threshold: float
    hits: int
    missed: int
    false_alarms: int
    correct_rejections: int


def confusions(predictions: HeldOutPredictions) -> list[Confusion]:
    """A matrix for each group of mutually exclusive classes."""
    found: list[Confusion] = []
    left = CELLS
    for number, group in enumerate(predictions.task.labels.groups):
        if len(group) > 1:
            cells = 0 if len(group) > TABLE_MOST else len(group) * (len(group) + 1)
            found.append(_confusion(predictions, group, number, shown=cells <= left))
            left -= cells if cells <= left else 0
    return found


def label_errors(predictions: HeldOutPredictions) -> list[LabelErrors]:
    """A row for each independent label."""
    labels = predictions.task.labels
    thresholds = predictions.task.thresholds.of(labels.names)
    rows: list[LabelErrors] = []
    for name in labels.singles:
        row = labels.index(name)
        predicted, true = predictions.predicted[:, row], predictions.true[:, row]
        rows.append(
            LabelErrors(
                name=name,
                threshold=float(thresholds[row]),
                hits=int((predicted & true).sum()),
                missed=int((~predicted & true).sum()),
                false_alarms=int((predicted & ~true).sum()),
                correct_rejections=int((~predicted & ~true).sum()),
            )
        )
    return rows


def _confusion(predictions: HeldOutPredictions, group: Sequence[str], number: int, *, shown: bool) -> Confusion:
    labels = predictions.task.labels
    rows = [labels.index(name) for name in group]
    has_one_N = predictions.true[:, rows].any(axis=1)
    true_NG, predicted_NG = predictions.true[has_one_N][:, rows], predictions.predicted[has_one_N][:, rows]
    none_N1 = ~predicted_NG.any(axis=1, keepdims=True)
    columns = [*group]
    if none_N1.any():  # the label above it was not predicted
        predicted_NG = np.concatenate([predicted_NG, none_N1], axis=1)
        columns.append("none of them")
    counts = confusion_matrix(true_NG, predicted_NG)
    fractions = counts / np.maximum(true_NG.sum(axis=0), 1)[:, None]
    many = len(group) > TABLE_MOST
    return Confusion(
        parent=labels.parents.get(group[0]),
        names=group,
        predictions=columns,
        counts=[] if many or not shown else counts.tolist(),
        fractions=[] if many or not shown else fractions.tolist(),
        mistakes=_mistakes(group, columns, counts, fractions),
        drawn=heatmap(f"confusion{number}", f"Confusion matrix of {len(group)} labels", fractions) if many else None,
    )


def _mistakes(
    group: Sequence[str], columns: Sequence[str], counts: NDArray[np.int64], fractions: NDArray[np.float64]
) -> list[Mistake]:
    off = counts.copy()
    np.fill_diagonal(off, 0)
    places = sorted(map(tuple, np.argwhere(off).tolist()), key=lambda place: -off[place])
    return [
        Mistake(group[truth], columns[prediction], int(off[truth, prediction]), float(fractions[truth, prediction]))
        for truth, prediction in places[:MISTAKES]
    ]
