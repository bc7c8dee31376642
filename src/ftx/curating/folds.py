"""Folds in which each image is judged by a probe that saw neither it nor anything like it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from hashlib import sha256

import numpy as np
from numpy.typing import NDArray

# A fifth is judged by a probe trained on four fifths.
FOLDS = 5


def stratified_folds(labels: Sequence[tuple[str, ...]], subjects: Sequence[str], most: int = FOLDS) -> NDArray[np.intp]:
    """The fold of each image; those of one subject (see ``near_duplicate_groups``) share one.

    A subject goes where fewest images of its rarest label are, then where fewest images are; the rarest labels come
    first. A label that fewer subjects have than there are folds is in as many folds as subjects have it. Neither the
    order of the images nor their names matter beyond the subjects' own.
    Shape: [N], up to ``most`` folds, no more than there are subjects.
    """
    members: dict[str, list[int]] = defaultdict(list)
    for row, subject in enumerate(subjects):
        members[subject].append(row)
    frequency = Counter(name for names in labels for name in names)
    rarest: dict[str, tuple[int, str]] = {}
    for subject, rows in members.items():
        names = {name for row in rows for name in labels[row]}
        rarest[subject] = min(((frequency[name], name) for name in names), default=(0, ""))
    folds = max(min(most, len(members)), 1)
    held: Counter[tuple[int, str]] = Counter()
    size: Counter[int] = Counter()
    fold_N = np.zeros(len(labels), dtype=np.intp)

    def order(subject: str) -> tuple[object, ...]:
        # Large subjects first, as what is small evens out; then by hash, so that names in order are mixed.
        return rarest[subject], -len(members[subject]), sha256(subject.encode(errors="surrogateescape")).hexdigest()

    for subject in sorted(members, key=order):
        _, name = rarest[subject]
        fold = min(range(folds), key=lambda one: (held[one, name], size[one], one))
        for row in members[subject]:
            fold_N[row] = fold
            size[fold] += 1
            for each in labels[row]:
                held[fold, each] += 1
    return fold_N
