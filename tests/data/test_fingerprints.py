"""Grey pixels of many images are kept in files, each as it was."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from ftx.data.fingerprints import GreyStore


@pytest.mark.parametrize("full", [False, True])
def test_what_is_kept_of_many_stays_as_it_was(full: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """More than the first three pieces hold, of four threads; in memory where the disk takes no more."""

    def no_room(*_: object) -> None:
        raise OSError(28, "No space left on device")

    if full:
        monkeypatch.setattr(os, "posix_fallocate", no_room)
    monkeypatch.setattr("ftx.data.fingerprints._FEWEST", 4)
    given = np.random.default_rng(0).integers(0, 256, (60, 32, 32), dtype=np.uint8)
    store = GreyStore()
    with ThreadPoolExecutor(4) as pool:
        kept = [*pool.map(store.keep, given)]
    np.testing.assert_array_equal(np.stack(kept), given)
