"""A connection as uvicorn has it, and how long one may be opened, spoken on and read from slowly."""

from __future__ import annotations

import asyncio
import json

from ftx.serving.limits import Limits

# A client that opens a connection, or begins a request on one, has this long to send its head.
HEAD_S = 10.0
# Beside those of requests that are being answered: kept alive, lingering, or speaking slowly.
SPARE_CONNECTIONS = 448


def connection_class(limits: Limits) -> type[asyncio.Protocol]:
    """uvicorn's connection by HTTP/1.1, with these limits."""
    from uvicorn.protocols.http.h11_impl import H11Protocol

    most = limits.max_concurrency + SPARE_CONNECTIONS

    class Connection(H11Protocol):
        """Closed where its head does not come, or its answer is not read."""

        _head: asyncio.TimerHandle | None = None
        _stall: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
            super().connection_made(transport)
            if len(self.connections) > most:
                self._end("503 Service Unavailable", f"{most} connections are open, which is the most")
                return
            self._await_head()

        def data_received(self, data: bytes) -> None:
            self._await_head()
            super().data_received(data)
            if self._answering:
                self._cancel_head()

        def connection_lost(self, exc: Exception | None) -> None:
            self._cancel_head()
            self._cancel_stall()
            super().connection_lost(exc)

        def pause_writing(self) -> None:
            super().pause_writing()
            self._stall = self.loop.call_later(limits.timeout_s, self.transport.abort)

        def resume_writing(self) -> None:
            self._cancel_stall()
            super().resume_writing()

        def send_400_response(self, msg: str) -> None:
            if self._answering:  # behind a request that is being answered: nothing can be said between
                self.transport.close()
                return
            self._end("400 Bad Request", "this is no HTTP request that can be understood")

        @property
        def _answering(self) -> bool:
            cycle = self.cycle
            return cycle is not None and not cycle.response_complete  # pyright: ignore[reportUnnecessaryComparison]

        def _await_head(self) -> None:
            if self._head is None and not self._answering:
                self._head = self.loop.call_later(min(HEAD_S, limits.timeout_s), self._no_head)

        def _no_head(self) -> None:
            self._head = None
            if not self._answering and not self.transport.is_closing():
                self._end("408 Request Timeout", "the head of the request did not come in time")

        def _end(self, status: str, sentence: str) -> None:
            body = json.dumps({"error": sentence})
            head = f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
            self.transport.write(f"{head}connection: close\r\n\r\n{body}".encode())
            self.transport.close()

        def _cancel_head(self) -> None:
            if self._head is not None:
                self._head.cancel()
                self._head = None

        def _cancel_stall(self) -> None:
            if self._stall is not None:
                self._stall.cancel()
                self._stall = None

    return Connection
