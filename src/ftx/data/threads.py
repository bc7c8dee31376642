"""One function over many items in a few threads, in order and never far ahead.

Pillow and file reading release the interpreter lock, so threads suffice: no worker processes, no
pickling, nothing left behind after an interrupt.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_threads(
    function: Callable[[Item], Result], items: Iterable[Item], *, workers: int | None = None, ahead: int | None = None
) -> Generator[Result, None, None]:
    """Yield ``function(item)`` in the order of the items, with at most ``ahead`` results begun and not yet taken.

    What the function raises comes out at its item's turn. Closing the iterator early drops what has not
    begun and waits for what has.
    """
    workers = workers or cores()
    todo = iter(items)
    window = ahead or 4 * workers
    pool = ThreadPoolExecutor(workers, thread_name_prefix="ftx-data")
    try:
        begun: deque[Future[Result]] = deque(pool.submit(function, item) for item in islice(todo, window))
        while begun:
            # The oldest is awaited before the next begins: otherwise one more than ``ahead`` would be alive.
            result = begun.popleft().result()
            begun.extend(pool.submit(function, item) for item in islice(todo, 1))
            yield result
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
