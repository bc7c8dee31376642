"""Near-duplicates: a photograph that was saved anew, resized or brightened, known again by a fingerprint of 64 bits.

Shapes: N and M images.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ftx.core.progress import SILENT, Progress

# The hash keeps 8 × 8 low frequencies of 32 × 32 grey pixels (Zauner, 2010, section 3.2.1).
SIDE = 32
LOW = 8
# Bits that may differ, and the least correlation of the grey pixels themselves. Photographs saved anew as JPEG, halved,
# doubled, brightened or paled differ by 8 bits at most and correlate by 0.984 at least. Of 2,000 × 3,000 different
# pictures of Fashion-MNIST, where all look alike, none passes both. (Averaged over boxes, a picture of 28 pixels and
# its double correlate by 0.91 only.)
MOST_BITS = 8
LEAST_CORRELATION = 0.98
# Pairs compared at a time.
_PAIRS = 1 << 22

Bits = NDArray[np.uint64]


@dataclass(frozen=True)
class Fingerprint:
    """The 64 bits, and the grey pixels that they were taken from. Shape: [32, 32]."""

    bits: int
    grey_HW: NDArray[np.uint8]


@dataclass(frozen=True)
class Pair:
    """The rows of two images that are near-duplicates, and the correlation of their grey pixels, in [-1, 1]."""

    one: int
    other: int
    correlation: float


def fingerprint(image: Image.Image) -> Fingerprint:
    """Signs of the low frequencies against their median, the mean brightness left out."""
    grey_HW = np.asarray(image.convert("L").resize((SIDE, SIDE), Image.Resampling.LANCZOS))
    low_KK = _COSINES @ grey_HW.astype(np.float64) @ _COSINES.T
    values = low_KK.ravel()
    above = values > np.median(values[1:])
    above[0] = False
    return Fingerprint(int.from_bytes(np.packbits(above).tobytes(), "big"), grey_HW)


def near_duplicates(
    ones: Sequence[Fingerprint], others: Sequence[Fingerprint], progress: Progress = SILENT
) -> list[Pair]:
    """For each of ``ones`` the most alike of ``others``, if it is alike enough; the surest first."""
    if not ones or not others:
        return []
    found: list[Pair] = []
    with progress.track("Comparing val and test with train", len(ones)) as bar:
        for rows, alike_NM in _alike(ones, others):
            best = alike_NM.argmax(axis=1), alike_NM.max(axis=1)
            for row, other, correlation in zip(rows.tolist(), *(part.tolist() for part in best), strict=True):
                if correlation >= LEAST_CORRELATION:
                    found.append(Pair(row, other, correlation))
            bar.advance(len(rows))
    return sorted(found, key=lambda pair: (-pair.correlation, pair.one))


@dataclass(frozen=True)
class Likeness:
    """Which images of a data set are near-duplicates of each other.

    ``set_N`` numbers, for each image, the set of all that are reached from it by near-duplicates of near-duplicates;
    ``unlike`` has, for each image with near-duplicates of another kind, the most alike of them.
    """

    set_N: NDArray[np.intp]
    unlike: list[Pair]


def likeness(images: Sequence[Fingerprint], kind_N: NDArray[np.intp], progress: Progress = SILENT) -> Likeness:
    """Compare all images of a data set with each other; ``kind_N`` numbers what each is said to be."""
    set_N = np.arange(len(images))
    unlike: list[Pair] = []
    with progress.track("Comparing all images", len(images)) as bar:
        for rows, alike_NM in _alike(images, images):
            alike_NM[np.arange(len(rows)), rows] = 1  # itself, also where it is of one grey all over
            for row, alike_M in zip(rows.tolist(), alike_NM, strict=True):
                near = np.flatnonzero(alike_M >= LEAST_CORRELATION)
                joined = np.unique(set_N[near])
                if len(joined) > 1:
                    set_N[np.isin(set_N, joined)] = joined[0]
                other = near[kind_N[near] != kind_N[row]]
                if len(other):
                    best = int(other[alike_M[other].argmax()])
                    unlike.append(Pair(row, best, min(float(alike_M[best]), 1.0)))
            bar.advance(len(rows))
    return Likeness(set_N, unlike)


def _alike(
    ones: Sequence[Fingerprint], others: Sequence[Fingerprint]
) -> Iterator[tuple[NDArray[np.intp], NDArray[np.float32]]]:
    """Some of ``ones`` after the others, by row, with their correlations, -1 where the bits differ. Shape: [N, M]."""
    bits_N, bits_M = _bits(ones), _bits(others)
    flat_NP, flat_MP = (np.stack([_centred(each) for each in fingerprints]) for fingerprints in (ones, others))
    step = max(1, _PAIRS // len(others))
    for start in range(0, len(ones), step):
        rows = np.arange(start, min(start + step, len(ones)))
        near_NM = np.bitwise_count(bits_N[rows, None] ^ bits_M) <= MOST_BITS
        alike_NM = np.full(near_NM.shape, -1, dtype=np.float32)
        some = np.flatnonzero(near_NM.any(axis=1))
        alike_NM[some] = np.where(near_NM[some], flat_NP[rows[some]] @ flat_MP.T, -1)
        yield rows, alike_NM


def _bits(fingerprints: Sequence[Fingerprint]) -> Bits:
    return np.array([each.bits for each in fingerprints], dtype=np.uint64)


def _centred(one: Fingerprint) -> NDArray[np.float32]:
    """Grey pixels as a vector of mean 0 and length 1; of one grey all over, 0. Shape: [1024]."""
    flat_P = one.grey_HW.astype(np.float32).ravel()
    flat_P -= flat_P.mean()
    length = float(np.linalg.norm(flat_P))
    return flat_P / length if length else flat_P


# The first 8 rows of the cosine transform (DCT-II), but for factors that move no sign. Shape: [8, 32].
_COSINES = np.cos(np.pi / SIDE * np.outer(np.arange(LOW), np.arange(SIDE) + 0.5))
