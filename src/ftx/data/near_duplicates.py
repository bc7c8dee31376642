"""Near-duplicates: images whose fingerprints differ in a few bits, and whose grey pixels correlate.

``seen_in_training`` finds held-out images that are nearly one of training: what is measured on them flatters a model.
``near_duplicate_groups`` finds the images of one picture: they stay in one fold, and may not differ in labels.

Shapes: N and M images, U of them that differ from each other, P grey pixels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ftx.core.closed_model import ClosedModel
from ftx.core.connected_components import least_of_component
from ftx.core.progress import SILENT, Progress
from ftx.data.dataset import SPLITS, Entry
from ftx.data.fingerprints import Fingerprint
from ftx.data.hamming_join import HammingJoin, RowNumbers

# Bits that may differ, and the least correlation of the grey pixels. Photographs saved again as JPEG, halved, doubled,
# brightened or paled differ by 8 bits at most and correlate by 0.984 at least. Of 2,000 × 3,000 different
# pictures of Fashion-MNIST, where all look alike, none passes both. (Averaged over boxes, a picture of 28 pixels and
# its double correlate by 0.91 only.)
MOST_BITS = 8
LEAST_CORRELATION = 0.98
# Pairs, or images of a matrix, whose grey pixels are compared at a time; images that are looked for at a time.
_PAIRS = 1 << 13
_IMAGES = 1 << 14
# A product of matrices computes a pair some hundred times faster than pair by pair.
_DENSE = 64
# If more than this fraction of the images look like images with other labels, they show a fixed camera or an empty
# stage: then a likeness says nothing of the label.
MOST_UNLIKE = 0.2
# One group with more of the images than a fold contains could not be put into folds.
MOST_IN_ONE = 0.2


@dataclass(frozen=True)
class Pair:
    """The rows of two images that are near-duplicates, and the correlation of their grey pixels, in [-1, 1]."""

    one: int
    other: int
    correlation: float


def near_duplicates(
    ones: Sequence[Fingerprint], others: Sequence[Fingerprint], progress: Progress = SILENT
) -> list[Pair]:
    """For each of ``ones`` the most alike of ``others``, if it is alike enough; the most alike first."""
    if not ones or not others:
        return []
    distinct = _Distinct(others)
    found: list[Pair] = []
    with progress.track("Comparing val and test with train", len(ones)) as bar:
        for start in range(0, len(ones), _IMAGES):
            some = ones[start : start + _IMAGES]
            for pairs in distinct.alike(some):
                row, unit, alike = pairs.most_alike()
                found += map(Pair, (start + row).tolist(), distinct.first_U[unit].tolist(), alike.tolist())
            bar.advance(len(some))
    return sorted(found, key=lambda pair: (-pair.correlation, pair.one))


@dataclass(frozen=True)
class Likeness:
    """Which images of a data set are near-duplicates of each other.

    ``set_N`` numbers, for each image, the set of all that are reached from it by near-duplicates of near-duplicates;
    ``unlike`` has, for each image with near-duplicates of another kind, the most alike of them.
    """

    set_N: RowNumbers
    unlike: list[Pair]


def likeness(images: Sequence[Fingerprint], kind_N: RowNumbers, progress: Progress = SILENT) -> Likeness:
    """Compare all images of a data set with each other; ``kind_N`` numbers the kind (the labels) of each."""
    distinct = _Distinct(images, kind_N)
    kind_U, set_U = kind_N[distinct.first_U], np.arange(len(distinct.first_U))
    # Of each distinct image the most alike of another kind, if any.
    other_U = np.full(len(kind_U), -1)
    alike_U = np.zeros(len(kind_U), dtype=np.float32)
    with progress.track("Comparing all images", len(kind_U)) as bar:
        for start in range(0, len(kind_U), _IMAGES):
            some = [images[row] for row in distinct.first_U[start : start + _IMAGES].tolist()]
            for pairs in distinct.alike(some):
                set_U = _joined(set_U, start + pairs.row, pairs.unit)
                differs = kind_U[start + pairs.row] != kind_U[pairs.unit]
                row, unit, alike = pairs.of(differs).most_alike()
                other_U[start + row], alike_U[start + row] = unit, alike
            bar.advance(len(some))
    unit_N = distinct.unit_N
    unlike = [
        Pair(row, int(distinct.first_U[other_U[unit]]), float(alike_U[unit]))
        for row, unit in enumerate(unit_N.tolist())
        if other_U[unit] >= 0
    ]
    return Likeness(distinct.first_U[set_U][unit_N], unlike)


class NearDuplicate(ClosedModel):
    """A validation or test image that is almost equal to an image seen in training."""

    held_out: str
    """The path of the validation or test image."""
    train: str
    """The path of the image seen in training. For a test image it may be a validation image, as these choose the epoch.
    """
    correlation: float
    """The correlation of their grey pixels, at most 1; also 1 if the files are equal."""


def seen_in_training(
    entries: Sequence[Entry], fingerprints: Mapping[str, Fingerprint], progress: Progress = SILENT
) -> list[NearDuplicate]:
    """Each held-out image with the one of training that it nearly is; ``fingerprints`` are by path.

    Images of val are compared with train, those of test with both.
    """
    train, val, test = ([entry for entry in entries if entry.split == split] for split in SPLITS)
    return _alike(val, train, fingerprints, progress) + _alike(test, train + val, fingerprints, progress)


def _alike(
    held_out: Sequence[Entry], seen: Sequence[Entry], fingerprints: Mapping[str, Fingerprint], progress: Progress
) -> list[NearDuplicate]:
    """The same files first, then those that look alike."""
    same = {entry.sha256: entry.path for entry in seen}
    equal = [
        NearDuplicate(held_out=entry.path, train=same[entry.sha256], correlation=1)
        for entry in held_out
        if entry.sha256 in same
    ]
    others = [entry for entry in held_out if entry.sha256 not in same]
    pairs = near_duplicates(
        [fingerprints[one.path] for one in others], [fingerprints[one.path] for one in seen], progress
    )
    return equal + [
        NearDuplicate(
            held_out=others[pair.one].path, train=seen[pair.other].path, correlation=round(pair.correlation, 4)
        )
        for pair in pairs
    ]


@dataclass(frozen=True)
class NearDuplicateGroups:
    """``subjects`` names, for each image, what must stay in one fold; ``unlike`` are pairs with different labels.

    ``notes`` are sentences about what the likeness of images cannot show in this data set.
    """

    subjects: list[str]
    unlike: list[Pair]
    notes: list[str]


def near_duplicate_groups(
    entries: Sequence[Entry], fingerprints: Mapping[str, Fingerprint], progress: Progress = SILENT
) -> NearDuplicateGroups:
    """Groups of equal files, near-duplicates, and images of one ``Entry.group``; ``fingerprints`` are by path."""
    kinds: dict[tuple[str, ...], int] = {}
    kind_N = np.array([kinds.setdefault(tuple(sorted(entry.labels)), len(kinds)) for entry in entries])
    found = likeness([fingerprints[entry.path] for entry in entries], kind_N, progress)
    notes: list[str] = []
    sets = [f"set {number}" for number in found.set_N.tolist()]
    if Counter(sets).most_common(1)[0][1] > max(MOST_IN_ONE * len(entries), 2):
        notes.append("many images look alike, as under a fixed camera: only equal files are kept in one fold")
        sets = [f"set {entry.sha256}" for entry in entries]
    unlike = [*equal_files(entries), *found.unlike]
    unlike = list({pair.one: pair for pair in reversed(unlike)}.values())[::-1]
    if len(unlike) > max(MOST_UNLIKE * len(entries), 2):
        notes.append(f"{len(unlike)} images look like one with other labels: being alike says nothing here")
        unlike = equal_files(entries)
    # Sets of near-duplicates, and groups that a table names, that share an image are one.
    links = [(name, f"file {entry.sha256}") for name, entry in zip(sets, entries, strict=True)]
    named = [(name, entry.group) for name, entry in zip(sets, entries, strict=True) if entry.group is not None]
    links += [(name, f"group {group}") for name, group in named]
    least = least_of_component(links)
    return NearDuplicateGroups([least[name] for name in sets], unlike, notes)


def equal_files(entries: Sequence[Entry]) -> list[Pair]:
    """Each image with an equal file that has other labels, and the first of those files."""
    by_content: dict[str, dict[frozenset[str], list[int]]] = {}
    for row, entry in enumerate(entries):
        by_content.setdefault(entry.sha256, {}).setdefault(frozenset(entry.labels), []).append(row)
    pairs: list[Pair] = []
    for first, *others in (list(by_labels.values()) for by_labels in by_content.values()):
        pairs += [Pair(row, others[0][0], 1.0) for row in first if others]  # in the order of their first images
        pairs += [Pair(row, first[0], 1.0) for rows in others for row in rows]
    return pairs


class _Distinct:
    """Images to find near-duplicates among, those of the very same pixels (and kind) as one: the first of them.

    ``first_U`` are the rows of these; ``unit_N`` is the number among them of each image.
    """

    def __init__(self, images: Sequence[Fingerprint], kind_N: RowNumbers | None = None) -> None:
        kinds: Sequence[int] = [0] * len(images) if kind_N is None else kind_N.tolist()
        known: dict[tuple[bytes, int], int] = {}
        first: list[int] = []
        self.unit_N = np.empty(len(images), np.intp)
        for row, (image, kind) in enumerate(zip(images, kinds, strict=True)):
            # What is of one grey all over is like nothing, and stays by itself.
            digest = blake2b(image.grey_HW.tobytes(), digest_size=16).digest() if _varies(image) else row.to_bytes(8)
            unit = known.setdefault((digest, kind), len(first))
            if unit == len(first):
                first.append(row)
            self.unit_N[row] = unit
        self.first_U = np.array(first, np.intp)
        self._images = [images[row] for row in first]
        self._textured = np.flatnonzero([_varies(image) for image in self._images])
        self._join = HammingJoin(_bits(self._images, self._textured), MOST_BITS)

    def alike(self, images: Sequence[Fingerprint]) -> Iterator[_Pairs]:
        """The near-duplicates of some images: all of one image together, of a few images at a time."""
        textured = np.flatnonzero([_varies(image) for image in images])
        for near_row, near_unit in self._join.near(_bits(images, textured)):
            row, unit = textured[near_row], self._textured[near_unit]
            alike = _correlations(images, row, self._images, unit)
            near = alike >= LEAST_CORRELATION
            yield _Pairs(row[near], unit[near], np.minimum(alike[near], 1))


class _Pairs(NamedTuple):
    """Rows of images, near-duplicates of them by their number in ``_Distinct``, and how alike each pair is."""

    row: RowNumbers
    unit: RowNumbers
    alike: NDArray[np.float32]

    def of(self, some: NDArray[np.bool_] | RowNumbers) -> _Pairs:
        """Some of the pairs."""
        return _Pairs(self.row[some], self.unit[some], self.alike[some])

    def most_alike(self) -> _Pairs:
        """Of each row's pairs the most alike, and of those that are as alike the first."""
        ordered = np.lexsort((self.unit, -self.alike, self.row))
        return self.of(ordered[np.flatnonzero(np.diff(self.row[ordered], prepend=-1))])


def _correlations(
    ones: Sequence[Fingerprint], one: RowNumbers, others: Sequence[Fingerprint], other: RowNumbers
) -> NDArray[np.float32]:
    """Of pairs, by their rows, the correlation of their grey pixels.

    If these are many of all possible pairs, as of one scene under a fixed camera, by products of matrices.
    """
    alike = np.empty(len(one), np.float32)
    distinct_one, one_at = np.unique(one, return_inverse=True)
    distinct_other, other_at = np.unique(other, return_inverse=True)
    if len(distinct_one) * len(distinct_other) >= _DENSE * len(one):
        for start in range(0, len(one), _PAIRS):
            part = slice(start, start + _PAIRS)
            alike[part] = np.einsum("np,np->n", _centred(ones, one[part]), _centred(others, other[part]))
        return alike
    flat_NP = _centred(ones, distinct_one)
    by_other = np.argsort(other_at, kind="stable")
    edges = np.searchsorted(other_at[by_other], np.arange(0, len(distinct_other) + _PAIRS, _PAIRS))
    for nth, (begin, end) in enumerate(pairwise(edges.tolist())):
        some = by_other[begin:end]
        block = distinct_other[nth * _PAIRS : (nth + 1) * _PAIRS]
        alike[some] = (flat_NP @ _centred(others, block).T)[one_at[some], other_at[some] - nth * _PAIRS]
    return alike


def _joined(first_U: RowNumbers, ones: RowNumbers, others: RowNumbers) -> RowNumbers:
    """Sets, each named by its first member, once each of ``ones`` and the one of ``others`` in its row share a set."""
    if np.array_equal(first_U[ones], first_U[others]):
        return first_U  # as in most blocks: each image is only like itself
    members = len(first_U)
    pairs = np.unique(first_U[ones] * members + first_U[others])
    least = least_of_component(zip((pairs // members).tolist(), (pairs % members).tolist(), strict=True))
    to_U = np.arange(members)
    to_U[list(least)] = list(least.values())
    return to_U[first_U]


def _varies(image: Fingerprint) -> bool:
    """Whether it is of more than one grey."""
    return bool(image.grey_HW.min() != image.grey_HW.max())


def _bits(fingerprints: Sequence[Fingerprint], rows: RowNumbers) -> NDArray[np.uint64]:
    return np.array([fingerprints[row].bits for row in rows.tolist()], dtype=np.uint64)


def _centred(images: Sequence[Fingerprint], rows: RowNumbers) -> NDArray[np.float32]:
    """Grey pixels, of which not all are the same, as vectors of mean 0 and length 1. Shape: [N, P]."""
    flat_NP = np.stack([images[row].grey_HW.ravel() for row in rows.tolist()]).astype(np.float32)
    flat_NP -= flat_NP.mean(axis=1, keepdims=True)
    return flat_NP / np.linalg.norm(flat_NP, axis=1, keepdims=True)
