"""What identifies a photograph that was saved again, resized or brightened: 64 bits and 32 × 32 grey pixels."""

from __future__ import annotations

import mmap
import os
import tempfile
from dataclasses import dataclass
from threading import Lock

import numpy as np
from numpy.typing import NDArray
from PIL import Image

# The hash keeps 8 × 8 low frequencies of 32 × 32 grey pixels (Zauner, 2010, section 3.2.1).
SIDE = 32
LOW = 8
# Fingerprints in one piece of a file: 1 to 64 MiB.
_FEWEST, _MOST = 1 << 10, 1 << 16

Grey = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """The 64 bits, and the grey pixels that they were computed from. Shape: [32, 32]."""

    bits: int
    grey_HW: Grey


class GreyStore:
    """Grey pixels in files without names: those of a million images, a gigabyte, need not stay in memory."""

    def __init__(self) -> None:
        self._piece, self._places, self._held = _piece(0), 0, 0
        self._one_at_a_time = Lock()

    def keep(self, grey_HW: Grey) -> Grey:
        """The same pixels, as a view of the file, which stays for as long as any of its views."""
        with self._one_at_a_time:
            if self._held == self._places:
                # Each piece twice the one before, up to some size: of few images none takes much.
                self._places = min(max(2 * self._places, _FEWEST), _MOST)
                self._piece, self._held = _piece(self._places * grey_HW.nbytes), 0
            piece, nth = self._piece, self._held
            self._held += 1
        kept_HW = np.frombuffer(piece, np.uint8, grey_HW.size, nth * grey_HW.size).reshape(grey_HW.shape)
        kept_HW[:] = grey_HW
        return kept_HW


def _piece(size_bytes: int) -> mmap.mmap:
    """Memory in a file; without a file if the disk is full."""
    try:
        with tempfile.TemporaryFile(prefix="ftx-grey-") as file:
            # Space that is only promised would end the process when it is written to.
            os.posix_fallocate(file.fileno(), 0, max(size_bytes, 1))
            return mmap.mmap(file.fileno(), max(size_bytes, 1))  # which keeps its file
    except OSError:
        return mmap.mmap(-1, max(size_bytes, 1))


def fingerprint(image: Image.Image, store: GreyStore | None = None) -> Fingerprint:
    """Signs of the low frequencies against their median, the mean brightness left out; grey pixels in the ``store``."""
    grey_HW = np.asarray(image.convert("L").resize((SIDE, SIDE), Image.Resampling.LANCZOS))
    low_KK = _COSINES @ grey_HW.astype(np.float64) @ _COSINES.T
    values = low_KK.ravel()
    above = values > np.median(values[1:])
    above[0] = False
    bits = int.from_bytes(np.packbits(above).tobytes(), "big")
    return Fingerprint(bits, grey_HW if store is None else store.keep(grey_HW))


# The first 8 rows of the cosine transform (DCT-II), but for factors that move no sign. Shape: [8, 32].
_COSINES = np.cos(np.pi / SIDE * np.outer(np.arange(LOW), np.arange(SIDE) + 0.5))
