"""Which images are one picture: they stay in one fold, and may not differ in labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ftx.core.components import least_of_component
from ftx.core.progress import SILENT, Progress
from ftx.data.dataset import Entry
from ftx.data.fingerprints import Fingerprint
from ftx.data.near_duplicates import Pair, likeness

# Where more than this share of the images look like images of another label, a fixed camera or an empty stage is what
# they share: then being alike says nothing of the label.
MOST_UNLIKE = 0.2
# One set of near-duplicates with more of the images than a fold holds could not be put into folds.
MOST_IN_ONE = 0.2


@dataclass(frozen=True)
class Twins:
    """``subjects`` names, for each image, what must stay in one fold; ``unlike`` are pairs with different labels.

    ``notes`` say what being alike cannot tell here.
    """

    subjects: list[str]
    unlike: list[Pair]
    notes: list[str]


def twins(entries: Sequence[Entry], fingerprints: Mapping[str, Fingerprint], progress: Progress = SILENT) -> Twins:
    """Equal files, near-duplicates, and images of one group; ``fingerprints`` are by path."""
    kinds: dict[tuple[str, ...], int] = {}
    kind_N = np.array([kinds.setdefault(tuple(sorted(entry.labels)), len(kinds)) for entry in entries])
    found = likeness([fingerprints[entry.path] for entry in entries], kind_N, progress)
    notes: list[str] = []
    sets = [str(number) for number in found.set_N.tolist()]
    if Counter(sets).most_common(1)[0][1] > max(MOST_IN_ONE * len(entries), 2):
        notes.append("many images look alike, as under a fixed camera: only equal files are kept in one fold")
        sets = [entry.sha256 for entry in entries]
    unlike = [*equal_files(entries), *found.unlike]
    unlike = list({pair.one: pair for pair in reversed(unlike)}.values())[::-1]
    if len(unlike) > max(MOST_UNLIKE * len(entries), 2):
        notes.append(f"{len(unlike)} images look like one with other labels: being alike says nothing here")
        unlike = [*equal_files(entries)]
    return Twins(_joined(sets, entries), unlike, notes)


def equal_files(entries: Sequence[Entry]) -> list[Pair]:
    """Each image with an equal file that has other labels, and the first such."""
    by_content: dict[str, dict[frozenset[str], list[int]]] = {}
    for row, entry in enumerate(entries):
        by_content.setdefault(entry.sha256, {}).setdefault(frozenset(entry.labels), []).append(row)
    pairs: list[Pair] = []
    for by_labels in by_content.values():
        first, *others = by_labels.values()  # in the order of their first images
        if others:
            pairs += [Pair(row, others[0][0], 1.0) for row in first]
            pairs += [Pair(row, first[0], 1.0) for rows in others for row in rows]
    return pairs


def _joined(sets: Sequence[str], entries: Sequence[Entry]) -> list[str]:
    """Sets of near-duplicates, and groups that a table names, that share an image are one."""
    links: list[tuple[str, str]] = []
    for number, entry in zip(sets, entries, strict=True):
        named = [] if entry.group is None else [f"group {entry.group}"]
        links += [(f"set {number}", other) for other in (f"file {entry.sha256}", *named)]
    least = least_of_component(links)
    return [least[f"set {number}"] for number in sets]
