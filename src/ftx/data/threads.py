"""One function over many items in a few threads, in order, and bytes that threads hold together.

Pillow and file reading release the interpreter lock, so threads suffice: no worker processes, no
pickling, nothing left behind after an interrupt.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import cached_property
from typing import TypeVar

from ftx.core.memory import available_bytes
from ftx.core.processors import cores

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def in_threads(
    function: Callable[[_Item], _Result],
    items: Iterable[_Item],
    *,
    workers: int | None = None,
    prefetch: int | None = None,
    size_of: Callable[[_Item], int] | None = None,
    most_bytes: int = 0,
) -> Generator[_Result, None, None]:
    """Yield ``function(item)`` in the order of the items; at most ``prefetch`` results are computed before their turn.

    ``size_of`` returns how many bytes an item takes: those in progress take ``most_bytes`` at most, or are only one.
    An exception of the function is raised at its item's turn. Closing the iterator early drops the items that have not
    started, and waits for the others.
    """
    workers = workers or cores()
    window = prefetch or 4 * workers
    todo = ((item, size_of(item) if size_of else 0) for item in items)
    following = next(todo, None)
    pool = ThreadPoolExecutor(workers, thread_name_prefix="ftx-data")
    running: deque[tuple[Future[_Result], int]] = deque()
    try:
        while running or following:
            result: list[_Result] = []
            if running:
                # The oldest is awaited before the next begins: otherwise one more than ``prefetch`` would be alive.
                result.append(running.popleft()[0].result())
            while following and len(running) < window:
                item, size_bytes = following
                if running and sum(held for _, held in running) + size_bytes > most_bytes:
                    break
                running.append((pool.submit(function, item), size_bytes))
                following = next(todo, None)
            yield from result
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


class ByteBudget:
    """Bytes that all threads together hold at a time: at most ``most_bytes``, and a quarter of the free memory.

    A larger item waits until nothing else is held, and is then the only one.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._held_bytes = 0
        self._freed = threading.Condition()

    @cached_property
    def limit_bytes(self) -> int:
        """Measured once, at its first use."""
        return min(self._most_bytes, available_bytes() // 4)

    @contextmanager
    def holding(self, size_bytes: int) -> Generator[None, None, None]:
        """Wait until that many bytes are free, and hold them for the block."""
        with self._freed:
            self._freed.wait_for(lambda: not self._held_bytes or self._held_bytes + size_bytes <= self.limit_bytes)
            self._held_bytes += size_bytes
        try:
            yield
        finally:
            with self._freed:
                self._held_bytes -= size_bytes
                self._freed.notify_all()
