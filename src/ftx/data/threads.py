"""One function over many items in a few threads, in order and never far ahead.

Pillow and file reading release the interpreter lock, so threads suffice: no worker processes, no
pickling, nothing left behind after an interrupt.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from ftx.core.processors import cores

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_threads(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    workers: int | None = None,
    ahead: int | None = None,
    weigh: Callable[[Item], int] | None = None,
    most_bytes: int = 0,
) -> Generator[Result, None, None]:
    """Yield ``function(item)`` in the order of the items, with at most ``ahead`` results begun and not yet taken.

    ``weigh`` tells how many bytes an item takes: those that are begun take ``most_bytes`` at most, or are a single one.
    What the function raises comes out at its item's turn. Closing the iterator early drops what has not
    begun and waits for what has.
    """
    workers = workers or cores()
    window = ahead or 4 * workers
    todo = ((item, weigh(item) if weigh else 0) for item in items)
    following = next(todo, None)
    pool = ThreadPoolExecutor(workers, thread_name_prefix="ftx-data")
    begun: deque[tuple[Future[Result], int]] = deque()
    try:
        while begun or following:
            result: list[Result] = []
            if begun:
                # The oldest is awaited before the next begins: otherwise one more than ``ahead`` would be alive.
                result.append(begun.popleft()[0].result())
            while following and len(begun) < window:
                item, size_bytes = following
                if begun and sum(held for _, held in begun) + size_bytes > most_bytes:
                    break
                begun.append((pool.submit(function, item), size_bytes))
                following = next(todo, None)
            yield from result
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
