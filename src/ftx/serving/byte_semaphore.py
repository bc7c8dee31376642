"""A bound on the bytes that all requests hold at a time."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from ftx.core.memory import available_bytes


class AsyncByteSemaphore:
    """Counts bytes for all requests of a server: what does not fit waits, or is rejected by its caller.

    The one for threads is ``ftx.data.threads.ByteBudget``: waiting there would block the event loop.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes, self.held_bytes = most_bytes, 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    @classmethod
    def of_memory(cls, most_bytes: int) -> AsyncByteSemaphore:
        """At most a quarter of the free memory."""
        return cls(min(most_bytes, available_bytes() // 4))

    def fits(self, size_bytes: int) -> bool:
        """Whether this many bytes are free."""
        return self.held_bytes + size_bytes <= self._most_bytes

    @asynccontextmanager
    async def holding(self, size_bytes: int) -> AsyncGenerator[None, None]:
        """Wait until the bytes are free, and hold them for the block.

        More bytes than there are wait until nothing else is held.
        """
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
