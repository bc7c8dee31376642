"""Near-duplicates: a photograph that was saved anew, resized or brightened, known again by a fingerprint of 64 bits.

Shapes: N and M images.
"""

from __future__ import annotations

from collections.abc import Sequence
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
    bits_N, bits_M = _bits(ones), _bits(others)
    flat_NP, flat_MP = (np.stack([_centred(each) for each in fingerprints]) for fingerprints in (ones, others))
    found: list[Pair] = []
    rows = max(1, _PAIRS // len(others))
    with progress.track("Comparing val and test with train", len(ones)) as bar:
        for start in range(0, len(ones), rows):
            near_NM = np.bitwise_count(bits_N[start : start + rows, None] ^ bits_M) <= MOST_BITS
            some = np.flatnonzero(near_NM.any(axis=1))
            alike_NM = np.where(near_NM[some], flat_NP[start + some] @ flat_MP.T, -1)
            best = alike_NM.argmax(axis=1), alike_NM.max(axis=1)
            for row, other, correlation in zip(some.tolist(), *(part.tolist() for part in best), strict=True):
                if correlation >= LEAST_CORRELATION:
                    found.append(Pair(start + row, other, correlation))
            bar.advance(len(near_NM))
    return sorted(found, key=lambda pair: (-pair.correlation, pair.one))


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
