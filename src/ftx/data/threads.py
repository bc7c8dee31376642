"""One function over many items in a few threads, in order.

Pillow and file reading release the interpreter lock, so threads suffice: no worker processes, no
pickling, nothing left behind after an interrupt.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

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
