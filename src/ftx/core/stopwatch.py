"""Seconds that a part of the work takes, added up over all its turns."""

from __future__ import annotations

import time
from types import TracebackType


class Stopwatch:
    """Runs while its block does; one block at a time."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._started = 0.0

    def __enter__(self) -> None:
        self._started = time.perf_counter()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.seconds += time.perf_counter() - self._started
