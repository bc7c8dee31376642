"""Memory: how much is free, and budgets that threads share."""

from __future__ import annotations

import threading
from collections.abc import Generator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

# Where the machine does not tell its memory (no /proc): what the smallest of today's laptops has to spare.
ASSUMED_FREE_BYTES = 4 << 30


def available_bytes() -> int:
    """Memory that this process may still take, by /proc/meminfo and its control group."""
    meminfo = Path("/proc/meminfo")
    if not meminfo.is_file():
        return ASSUMED_FREE_BYTES
    fields = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
    free = int(fields["MemAvailable"].split()[0]) * 1024
    limit, current = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.is_file() and current.is_file() and limit.read_text().strip() != "max":
        # Pages of files that were read count as used, though the kernel drops them when memory is asked for.
        statistics = Path("/sys/fs/cgroup/memory.stat")
        lines = statistics.read_text().splitlines() if statistics.is_file() else []
        cached = sum(int(line.split()[1]) for line in lines if line.startswith(("inactive_file ", "active_file ")))
        free = min(free, max(int(limit.read_text()) - int(current.read_text()) + cached, 0))
    return free


class Budget:
    """Bytes that all threads together hold at a time: at most ``most_bytes``, and a quarter of the free memory.

    What is larger than all of it waits until nothing else is held, and goes alone.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._held_bytes = 0
        self._freed = threading.Condition()

    @cached_property
    def limit_bytes(self) -> int:
        """Measured once, when it is first asked for."""
        return min(self._most_bytes, available_bytes() // 4)

    @contextmanager
    def holding(self, size_bytes: int) -> Generator[None, None, None]:
        """Wait until so many bytes are to be had, and hold them for the block."""
        with self._freed:
            self._freed.wait_for(lambda: not self._held_bytes or self._held_bytes + size_bytes <= self.limit_bytes)
            self._held_bytes += size_bytes
        try:
            yield
        finally:
            with self._freed:
                self._held_bytes -= size_bytes
                self._freed.notify_all()
