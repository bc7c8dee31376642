"""A connection with limits: time for the head of a request, time for a reader, and how many are open."""

from __future__ import annotations

import math
from asyncio import Transport

from uvicorn.config import Config
from uvicorn.server import ServerState

from ftx.serving.closing import ClosingConnection
from ftx.serving.limits import HEAD_S, Limits
from ftx.serving.listening import unread_bytes


class Connection(ClosingConnection):
    """Closed if its head is late, its response is not read, or it is the longest idle one and others need its place."""

    def __init__(self, limits: Limits, config: Config, state: ServerState) -> None:
        super().__init__(config, state)
        self._limits = limits
        self.waits_since: float = self.loop.time()

    def connection_made(self, transport: Transport) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        super().connection_made(transport)
        self._await_head()
        if len(self.connections) > self._limits.max_connections:
            others: list[Connection] = [
                one for one in self.connections if isinstance(one, Connection) and one is not self and one.waits
            ]
            if others:  # else whoever holds many connections could lock everybody out
                longest = min(others, key=lambda one: one.waits_since)
                longest.end(
                    "408 Request Timeout", "this connection was idle for the longest time, and others wait", linger_s=0
                )
            else:
                found = f"{self._limits.max_connections} connections are open, which is the maximum"
                self.end("503 Service Unavailable", found, linger_s=0)

    def data_received(self, data: bytes) -> None:
        self._await_head()
        super().data_received(data)
        if self.responding:
            self.waits_since = self.loop.time()
            self.stop("head")

    def _await_head(self) -> None:
        if not self.responding and not self.lingers and "head" not in self.timers:
            self.waits_since = self.loop.time()
            late = ("408 Request Timeout", "the head of the request did not come in time")
            self.timers["head"] = self.loop.call_later(min(HEAD_S, self._limits.timeout_s), self.end, *late)

    def on_response_complete(self) -> None:
        self.waits_since = self.loop.time()
        super().on_response_complete()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch_reader()

    def _watch_reader(self, before_bytes: float = math.inf) -> None:
        """Abort if the client has read nothing since there were ``before_bytes`` left for it."""
        left_bytes = self.transport.get_write_buffer_size() + unread_bytes(self.transport.get_extra_info("socket"))
        if left_bytes < before_bytes:
            later = self.loop.call_later(self._limits.timeout_s, self._watch_reader, left_bytes)
            self.timers["reader"] = later
        else:
            self.transport.abort()

    def resume_writing(self) -> None:
        self.stop("reader")
        super().resume_writing()
