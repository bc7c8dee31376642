"""What an image looks like in 64 bits, so that a photograph saved anew, resized or brightened is known again.

Shapes: N and M images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

# The hash keeps 8 × 8 low frequencies of 32 × 32 grey pixels (Zauner, 2010, section 3.2.1).
SIDE = 32
LOW = 8
# Bits that may differ, and the least correlation of the grey pixels themselves. Photographs saved anew as JPEG, halved,
# doubled, brightened or paled differ by 8 bits at most and correlate by 0.985 at least. Of 2,000 × 3,000 different
# pictures of Fashion-MNIST, where all look alike, none passes both.
MOST_BITS = 8
LEAST_CORRELATION = 0.98
# Pairs compared at a time, 8 bytes each.
_PAIRS = 1 << 22

Bits = NDArray[np.uint64]


@dataclass(frozen=True)
class Look:
    """The 64 bits, and the grey pixels that they were taken from. Shape: [32, 32]."""

    bits: int
    grey_HW: NDArray[np.uint8]


@dataclass(frozen=True)
class Twins:
    """The rows of two images that look alike, how many bits they differ in, and their correlation in [-1, 1]."""

    one: int
    other: int
    bits: int
    correlation: float


def look_at(image: Image.Image) -> Look:
    """Signs of the low frequencies against their median, the mean brightness left out."""
    grey_HW = np.asarray(image.convert("L").resize((SIDE, SIDE), Image.Resampling.BOX))
    low_KK = _COSINES @ grey_HW.astype(np.float64) @ _COSINES.T
    values = low_KK.ravel()
    above = values > np.median(values[1:])
    above[0] = False
    return Look(int.from_bytes(np.packbits(above).tobytes(), "big"), grey_HW)


def twins(ones: Sequence[Look], others: Sequence[Look]) -> list[Twins]:
    """For each of ``ones`` the most alike of ``others``, if it is alike enough; the surest first."""
    if not ones or not others:
        return []
    bits_N, bits_M = _bits(ones), _bits(others)
    flat_MP = np.stack([_centred(look) for look in others])
    found: list[Twins] = []
    rows = max(1, _PAIRS // len(others))
    for start in range(0, len(ones), rows):
        apart_NM = np.bitwise_count(bits_N[start : start + rows, None] ^ bits_M)
        for row in np.flatnonzero((apart_NM <= MOST_BITS).any(axis=1)).tolist():
            near = np.flatnonzero(apart_NM[row] <= MOST_BITS)
            alike = flat_MP[near] @ _centred(ones[start + row])
            best = int(alike.argmax())
            if alike[best] >= LEAST_CORRELATION:
                other = int(near[best])
                found.append(Twins(start + row, other, int(apart_NM[row, other]), float(alike[best])))
    return sorted(found, key=lambda pair: (-pair.correlation, pair.one))


def _bits(looks: Sequence[Look]) -> Bits:
    return np.array([look.bits for look in looks], dtype=np.uint64)


def _centred(look: Look) -> NDArray[np.float32]:
    """Grey pixels as a vector of mean 0 and length 1; of one grey all over, 0. Shape: [1024]."""
    flat_P = look.grey_HW.astype(np.float32).ravel()
    flat_P -= flat_P.mean()
    length = float(np.linalg.norm(flat_P))
    return flat_P / length if length else flat_P


# The first 8 rows of the cosine transform (DCT-II), but for factors that move no sign. Shape: [8, 32].
_COSINES = np.cos(np.pi / SIDE * np.outer(np.arange(LOW), np.arange(SIDE) + 0.5))
