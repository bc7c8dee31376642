"""Seconds of a part of the work, over all its blocks."""

from __future__ import annotations

import pytest

from ftx.core.progress import Stopwatch


def test_all_turns_are_added_up(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([10.0, 12.5, 100.0, 100.25, 200.0, 201.0])
    monkeypatch.setattr("ftx.core.progress.time.perf_counter", lambda: next(clock))
    watch = Stopwatch()
    for _ in range(2):
        with watch:
            pass
    assert watch.seconds == 2.75
    with pytest.raises(ZeroDivisionError), watch:  # what failed took its time as well
        raise ZeroDivisionError
    assert watch.seconds == 3.75
