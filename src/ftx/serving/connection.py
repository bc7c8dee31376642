"""A connection as uvicorn has it, and how long one may be opened, spoken on and read from slowly."""

from __future__ import annotations

import array
import asyncio
import json
import sys
from typing import TYPE_CHECKING

from ftx.serving.limits import LINGER_S, Limits

if TYPE_CHECKING:
    from uvicorn.protocols.http.h11_impl import H11Protocol

# A client that opens a connection, or begins a request on one, has this long to send its head.
HEAD_S = 10.0
# Beside those of requests that are being answered: kept alive, lingering, or speaking slowly.
SPARE_CONNECTIONS = 448


def most_connections(limits: Limits) -> int:
    """How many may be open."""
    return limits.max_concurrency + SPARE_CONNECTIONS


def connection_class(limits: Limits) -> type[H11Protocol]:
    """uvicorn's connection by HTTP/1.1, with these limits."""
    from uvicorn.protocols.http.h11_impl import H11Protocol

    most = most_connections(limits)

    class Connection(H11Protocol):
        """Closed where its head does not come, or its answer is not read."""

        _head: asyncio.TimerHandle | None = None
        _stall: asyncio.TimerHandle | None = None
        _linger: asyncio.TimerHandle | None = None
        _waits_since: float = 0.0

        def connection_made(self, transport: asyncio.Transport) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
            super().connection_made(transport)
            self._waits_since = self.loop.time()
            if len(self.connections) > most and not self._take_place():
                self._end("503 Service Unavailable", f"{most} connections are open, which is the most", lingers=False)
                return
            self._await_head()

        def _take_place(self) -> bool:
            """Close the connection of which nothing came for longest, as whoever holds many of them would lock us."""
            others = [one for one in self.connections if isinstance(one, Connection) and one is not self]
            idle = [one for one in others if one._is_waiting and one._linger is None and not one.transport.is_closing()]
            if not idle:
                return False
            longest = min(idle, key=lambda one: float(one._waits_since))
            said = "the server closed the connection that was idle for the longest time, as others wait"
            longest._end("408 Request Timeout", said, lingers=False)
            return True

        def data_received(self, data: bytes) -> None:
            if self._linger is not None:  # unheard, so that the client comes to read why
                return
            self._await_head()
            super().data_received(data)
            if self._answering:
                self._waits_since = self.loop.time()
                self._cancel_head()

        def eof_received(self) -> bool:  # pyright: ignore[reportIncompatibleMethodOverride]
            """The client sends no more; whether the connection stays open, for the answer. By TLS it cannot."""
            if self._answering and self._is_waiting:
                self._end("400 Bad Request", "the request ended before its body did", lingers=False)
            plain = self.transport.get_extra_info("sslcontext") is None
            return plain and self._answering and not self.transport.is_closing()

        def on_response_complete(self) -> None:
            self._waits_since = self.loop.time()
            super().on_response_complete()

        def connection_lost(self, exc: Exception | None) -> None:
            if self._linger is not None:
                self._linger.cancel()
            self._cancel_head()
            self._cancel_stall()
            super().connection_lost(exc)

        def pause_writing(self) -> None:
            super().pause_writing()
            self._await_reader(self._unread_bytes)

        def _await_reader(self, unread_bytes: int) -> None:
            self._stall = self.loop.call_later(limits.timeout_s, self._look_at_reader, unread_bytes)

        def _look_at_reader(self, unread_bytes: int) -> None:
            """End a connection whose client has read nothing since there were so many bytes for it."""
            left_bytes = self._unread_bytes
            if left_bytes < unread_bytes:
                self._await_reader(left_bytes)
            else:
                self.transport.abort()

        @property
        def _unread_bytes(self) -> int:
            """What waits here, and with the system, which takes some megabytes at once from here."""
            return self.transport.get_write_buffer_size() + _sent_unread_bytes(self.transport)

        def resume_writing(self) -> None:
            self._cancel_stall()
            super().resume_writing()

        def send_400_response(self, msg: str) -> None:
            cycle = self.cycle
            # Behind a request that is being answered nothing can be said; of its own body it can, before the answer.
            if self._answering and (cycle.response_started or not cycle.more_body):
                self.transport.close()
                return
            self._end("400 Bad Request", "this is no HTTP request that can be understood")

        @property
        def _is_waiting(self) -> bool:
            """Whether it waits for its client: for a request, or for the rest of one."""
            return not self._answering or (self.cycle.more_body and not self.cycle.response_started)

        @property
        def _answering(self) -> bool:
            cycle = self.cycle
            return cycle is not None and not cycle.response_complete  # pyright: ignore[reportUnnecessaryComparison]

        def _await_head(self) -> None:
            if self._head is None and not self._answering:
                self._waits_since = self.loop.time()
                self._head = self.loop.call_later(min(HEAD_S, limits.timeout_s), self._no_head)

        def _no_head(self) -> None:
            self._head = None
            if not self._answering and not self.transport.is_closing():
                self._end("408 Request Timeout", "the head of the request did not come in time")

        def _end(self, status: str, sentence: str, *, lingers: bool = True) -> None:
            """Say why, and close: at once where there are too many connections already."""
            body = json.dumps({"error": sentence})
            head = f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
            self.transport.write(f"{head}connection: close\r\n\r\n{body}".encode())
            self._cancel_head()
            if self._answering:  # whoever waits for the rest of a body is told that it does not come
                self.cycle.disconnected = True
                self.cycle.message_event.set()
            if not lingers:
                self.transport.close()
                return
            # Closed while the client sends, the system drops the answer that it has not read yet.
            self._linger = self.loop.call_later(LINGER_S, self.transport.close)
            if self.transport.can_write_eof():
                self.transport.write_eof()

        def _cancel_head(self) -> None:
            if self._head is not None:
                self._head.cancel()
                self._head = None

        def _cancel_stall(self) -> None:
            if self._stall is not None:
                self._stall.cancel()
                self._stall = None

    return Connection


def _sent_unread_bytes(transport: asyncio.Transport) -> int:
    """What the system keeps of a connection until the other side takes it; 0 where it does not tell."""
    if sys.platform != "linux":
        return 0
    from fcntl import ioctl
    from termios import TIOCOUTQ

    count = array.array("i", [0])
    ioctl(transport.get_extra_info("socket").fileno(), TIOCOUTQ, count)
    return count[0]
