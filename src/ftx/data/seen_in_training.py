"""Held-out images that are nearly one of training: what is measured on them flatters a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pydantic import BaseModel, ConfigDict

from ftx.core.progress import SILENT, Progress
from ftx.data.dataset import SPLITS, Entry
from ftx.data.fingerprints import Fingerprint
from ftx.data.near_duplicates import near_duplicates


class NearDuplicate(BaseModel):
    """A held-out image that is nearly one of training: another size or compression of it, or the next frame.

    ``train`` is that one; of an image of test it may be one of val, by which the epoch is chosen. ``correlation`` is
    that of their grey pixels, in [-1, 1]; 1 also where the files are the same.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    held_out: str
    train: str
    correlation: float


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
