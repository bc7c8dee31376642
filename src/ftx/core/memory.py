"""Memory: how much is free, and one error if it runs out, which each library words in its own way."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ftx.core.errors import EnvironmentFault

# If the system does not report its memory (no /proc): the free memory of today's smallest laptops.
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
        # Pages of files that were read count as used, though the kernel drops them when memory is needed.
        statistics = Path("/sys/fs/cgroup/memory.stat")
        lines = statistics.read_text().splitlines() if statistics.is_file() else []
        cached = sum(int(line.split()[1]) for line in lines if line.startswith(("inactive_file ", "active_file ")))
        free = min(free, max(int(limit.read_text()) - int(current.read_text()) + cached, 0))
    return free


# glibc's parameters (malloc.h), and the size up to which it keeps freed memory.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_KEPT_BYTES = 1 << 30
# The maximum of older ones (before 2.35, by their source), on 64 bits.
_OLD_KEPT_BYTES = 32 << 20


def keep_freed_memory() -> bool:
    """Let the process keep the memory of freed tensors for the next ones; whether that could be set.

    glibc returns blocks over 32 MB to the system at once and gets them back page by page, each cleared on its
    first touch: six times the time that an element-wise operation takes. The process grows no larger than its peak.
    """
    if sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    if mallopt is None:
        return False
    kept = mallopt(_M_MMAP_THRESHOLD, _KEPT_BYTES) == 1 or mallopt(_M_MMAP_THRESHOLD, _OLD_KEPT_BYTES) == 1
    return mallopt(_M_TRIM_THRESHOLD, 2 * _KEPT_BYTES - 1) == 1 and kept


# torch on a CPU and (by the name of its own class) on a GPU, oneDNN, the C++ library, and the system.
_WORDS = (
    "can't allocate memory",
    "not enough memory",
    "out of memory",
    "could not create a memory object",
    "bad_alloc",
    "bad allocation",
    "cannot allocate memory",
)
SMALLER = "use a smaller batch, image size or model"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error reports that the machine has no more memory."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in _WORDS)


def memory_fault(error: BaseException, fix: str = SMALLER) -> EnvironmentFault:
    """The error in our own terms."""
    lines = str(error).strip().splitlines()
    found = lines[0].rpartition("] ")[2][:200] if lines else None  # torch begins with the place in its source
    return EnvironmentFault("there is not enough memory", found=found, fix=fix)


@contextmanager
def memory_faults(fix: Callable[[], str]) -> Iterator[None]:
    """Turn memory that runs out into one clear error, whose ``fix`` is what would fit."""
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise memory_fault(error, fix()) from error
