"""Memory that runs out: torch, numpy and OpenVINO each say so in their own way, ftx in one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ftx.errors import EnvironmentFault

# torch on a CPU and (as its own class, told by its name) on a GPU, oneDNN, the C++ library, and the system.
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
    """Whether an error says that the machine has no more memory to give."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in _WORDS)


def memory_fault(error: BaseException, mend: str = SMALLER) -> EnvironmentFault:
    """The error in our own terms."""
    lines = str(error).strip().splitlines()
    found = lines[0].rpartition("] ")[2][:200] if lines else None  # torch begins with the place in its source
    return EnvironmentFault("there is not enough memory", found=found, mend=mend)


@contextmanager
def memory_faults(mend: Callable[[], str]) -> Iterator[None]:
    """Turn memory that runs out into one clear error, which says what would fit."""
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise memory_fault(error, mend()) from error
