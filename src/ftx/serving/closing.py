"""uvicorn's HTTP/1.1 connection, which ends with an error in JSON that its client has the time to read."""

from __future__ import annotations

import json
from asyncio import TimerHandle

from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from ftx.serving.limits import LINGER_S


class ClosingConnection(H11Protocol):
    """A connection without limits; subclasses decide when to ``end`` it."""

    def __init__(self, config: Config, state: ServerState) -> None:
        super().__init__(config, state, {})
        self.lingers, self.timers = False, dict[str, TimerHandle]()

    @property
    def responding(self) -> bool:
        """Whether a request has arrived, and its response is not complete."""
        return bool(self.cycle) and not self.cycle.response_complete

    @property
    def waits(self) -> bool:
        """Whether it waits for its client: for a request, or for the rest of one."""
        waits = not self.responding or (self.cycle.more_body and not self.cycle.response_started)
        return waits and not self.lingers and not self.transport.is_closing()

    def stop(self, *names: str) -> None:
        """Stop the timers of these names, if they run."""
        for name in names:
            if timer := self.timers.pop(name, None):
                timer.cancel()

    def end(self, status: str, sentence: str, linger_s: float = LINGER_S) -> None:
        """Send an error and close. If it closed while the client sends, the system would drop the unread error."""
        if self.lingers or self.transport.is_closing():
            return
        body = json.dumps({"error": sentence})
        head = f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
        self.transport.write(f"{head}connection: close\r\n\r\n{body}".encode())
        self.lingers = True
        if self.responding:  # the application waits for the rest of a body
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if linger_s == 0:
            self.transport.close()
            return
        self.timers["linger"] = self.loop.call_later(linger_s, self.transport.close)
        if self.transport.can_write_eof():
            self.transport.write_eof()

    def data_received(self, data: bytes) -> None:
        if not self.lingers:
            super().data_received(data)

    def eof_received(self) -> bool:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Keep the connection open for the response although the client sends no more. With TLS it cannot be."""
        if self.responding and self.waits:
            self.end("400 Bad Request", "the request ended before its body did", linger_s=0)
        plain = self.transport.get_extra_info("sslcontext") is None
        return plain and self.responding and not self.transport.is_closing()

    def send_400_response(self, msg: str) -> None:
        if self.responding and not self.waits:  # no error can be sent after the response in progress
            self.transport.close()
        else:
            self.end("400 Bad Request", "this is no HTTP request that can be understood")

    def connection_lost(self, exc: Exception | None) -> None:
        self.stop(*self.timers)
        super().connection_lost(exc)
