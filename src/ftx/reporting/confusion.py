"""Who is taken for whom, in each set of labels of which exactly one holds; else how each label errs by itself.

Shapes: N images, G labels of one group.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ftx.evaluating.evaluate import confusion_matrix
from ftx.reporting.figures import heatmap
from ftx.reporting.held_out import HeldOut

# Labels whose matrix fits on a screen as a table; of more it is drawn, and the largest mistakes are listed.
TABLE_MOST = 20
MISTAKES = 20
# Cells of all tables of a page: of more, groups are shown by their mistakes alone.
CELLS = 8_000


@dataclass(frozen=True)
class Mistake:
    """So many of the images of one label were called another."""

    truth: str
    answer: str
    images: int
    share: float


@dataclass(frozen=True)
class Confusion:
    """One group's matrix: ``counts[i][j]`` images of label i were called j, the last column none of the group.

    ``parent`` is the label above the group in a tree. ``shares`` are of the images of label i. ``drawn`` stands for
    both where there are too many labels; with neither, mistakes are all that is shown.
    """

    parent: str | None
    names: Sequence[str]
    answers: Sequence[str]
    counts: list[list[int]]
    shares: list[list[float]]
    mistakes: Sequence[Mistake]
    drawn: str | None


@dataclass(frozen=True)
class Errors:
    """How often a label that decides by itself was called and not, where it holds and where not."""

    name: str
    threshold: float
    hits: int
    missed: int
    false_alarms: int
    rightly_not: int


def confusions(answers: HeldOut) -> list[Confusion]:
    """A matrix a group of labels that exclude each other."""
    found: list[Confusion] = []
    left = CELLS
    for number, group in enumerate(answers.task.labels.groups):
        if len(group) > 1:
            cells = 0 if len(group) > TABLE_MOST else len(group) * (len(group) + 1)
            found.append(_confusion(answers, group, number, shown=cells <= left))
            left -= cells if cells <= left else 0
    return found


def errors_of_singles(answers: HeldOut) -> list[Errors]:
    """A row a label that decides by itself."""
    labels = answers.task.labels
    thresholds = answers.task.thresholds.of(labels.names)
    rows: list[Errors] = []
    for name in labels.singles:
        row = labels.index(name)
        called, true = answers.predicted[:, row], answers.true[:, row]
        rows.append(
            Errors(
                name=name,
                threshold=float(thresholds[row]),
                hits=int((called & true).sum()),
                missed=int((~called & true).sum()),
                false_alarms=int((called & ~true).sum()),
                rightly_not=int((~called & ~true).sum()),
            )
        )
    return rows


def _confusion(answers: HeldOut, group: Sequence[str], number: int, *, shown: bool) -> Confusion:
    rows = [answers.task.labels.index(name) for name in group]
    asked_N = answers.true[:, rows].any(axis=1)
    true_NG, called_NG = answers.true[asked_N][:, rows], answers.predicted[asked_N][:, rows]
    none_N1 = ~called_NG.any(axis=1, keepdims=True)
    columns = [*group]
    if none_N1.any():  # the label above it was not called
        called_NG = np.concatenate([called_NG, none_N1], axis=1)
        columns.append("none of them")
    counts = confusion_matrix(true_NG, called_NG)
    shares = counts / np.maximum(true_NG.sum(axis=0), 1)[:, None]
    many = len(group) > TABLE_MOST
    return Confusion(
        parent=answers.task.labels.parents.get(group[0]),
        names=group,
        answers=columns,
        counts=[] if many or not shown else counts.tolist(),
        shares=[] if many or not shown else shares.tolist(),
        mistakes=_mistakes(group, columns, counts, shares),
        drawn=heatmap(f"confusion{number}", f"Confusion of {len(group)} labels", shares) if many else None,
    )


def _mistakes(
    group: Sequence[str], columns: Sequence[str], counts: NDArray[np.int64], shares: NDArray[np.float64]
) -> list[Mistake]:
    off = counts.copy()
    np.fill_diagonal(off, 0)
    places = [(int(truth), int(answer)) for truth, answer in np.argwhere(off)]
    places.sort(key=lambda place: -off[place])
    return [
        Mistake(group[truth], columns[answer], int(off[truth, answer]), float(shares[truth, answer]))
        for truth, answer in places[:MISTAKES]
    ]
