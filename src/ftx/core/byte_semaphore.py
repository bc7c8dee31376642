"""A bound on the bytes that are held at a time: by threads, and by the requests of a server."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from functools import cached_property
from typing import TYPE_CHECKING

from ftx.core.memory import available_bytes

if TYPE_CHECKING:
    import asyncio


def _within_memory(most_bytes: int) -> int:
    """At most this, and a quarter of the memory that is free now."""
    return min(most_bytes, available_bytes() // 4)


class ByteSemaphore:
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
        return _within_memory(self._most_bytes)

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


class AsyncByteSemaphore:
    """Counts bytes for all requests of a server: what does not fit waits, or is rejected by its caller.

    Waiting in ``ByteSemaphore`` would block the event loop.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes, self.held_bytes = most_bytes, 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    @classmethod
    def of_memory(cls, most_bytes: int) -> AsyncByteSemaphore:
        """At most a quarter of the free memory."""
        return cls(_within_memory(most_bytes))

    def fits(self, size_bytes: int) -> bool:
        """Whether this many bytes are free."""
        return self.held_bytes + size_bytes <= self._most_bytes

    @asynccontextmanager
    async def holding(self, size_bytes: int) -> AsyncGenerator[None, None]:
        """Wait until the bytes are free, and hold them for the block.

        More bytes than there are wait until nothing else is held.
        """
        import asyncio  # a server has it; ftx predict would wait 30 ms for it

        while self.held_bytes and not self.fits(size_bytes):
            freed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(freed)
            try:
                await freed
            finally:
                self._waiting.remove(freed)
        self.held_bytes += size_bytes
        try:
            yield
        finally:
            self.held_bytes -= size_bytes
            for freed in self._waiting:
                if not freed.done():
                    freed.set_result(None)
