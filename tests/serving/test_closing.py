"""What of uvicorn's internals our connections and server use: a release that changes them fails here, by name."""

from __future__ import annotations

import asyncio
import inspect
from typing import Any

import pytest
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState


class Wire(asyncio.Transport):
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""

    def write(self, data: Any) -> None:
        self.written += data

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def is_closing(self) -> bool:
        return False

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


def test_a_request_passes_through_the_states_that_we_read() -> None:
    seen: list[tuple[str, int]] = []

    async def app(_scope: Any, receive: Any, send: Any) -> None:
        while (message := await receive())["type"] == "http.request" and message["more_body"]:
            pass
        seen.append((message["type"], len(message.get("body", b""))))
        if message["type"] == "http.request":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"", "more_body": True})
            seen.append(("begun", int(protocol.cycle.response_started)))
            await send({"type": "http.response.body", "body": b"x"})

    async def request(rest: bytes) -> H11Protocol:
        nonlocal protocol
        state, wire = ServerState(), Wire()
        protocol = H11Protocol(uvicorn.Config(app, lifespan="off", log_config=None), state, {})
        assert (protocol.cycle, protocol.loop) == (None, asyncio.get_running_loop())
        protocol.connection_made(wire)
        assert (protocol.transport, protocol.connections) == (wire, {protocol})
        assert protocol.connections is state.connections
        protocol.data_received(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\n\r\nab")
        cycle = protocol.cycle
        assert (cycle.more_body, cycle.response_started, cycle.response_complete) == (True, False, False)
        if rest:
            protocol.data_received(rest)
            assert not cycle.more_body
        else:  # as we end a connection
            cycle.disconnected = True
            cycle.message_event.set()
        await asyncio.gather(*state.tasks)
        assert cycle.response_complete is bool(rest)
        return protocol

    protocol: Any = None
    asyncio.run(request(b"cd"))
    asyncio.run(request(b""))
    assert seen[:2] == [("http.request", 4), ("begun", 1)]
    assert seen[2][0] == "http.disconnect"


@pytest.mark.parametrize(
    ("kind", "method", "parameters"),
    [
        (H11Protocol, "connection_made", ["self", "transport"]),
        (H11Protocol, "connection_lost", ["self", "exc"]),
        (H11Protocol, "data_received", ["self", "data"]),
        (H11Protocol, "eof_received", ["self"]),
        (H11Protocol, "on_response_complete", ["self"]),
        (H11Protocol, "pause_writing", ["self"]),
        (H11Protocol, "resume_writing", ["self"]),
        (H11Protocol, "send_400_response", ["self", "msg"]),
        (uvicorn.Server, "startup", ["self", "sockets"]),
        (uvicorn.Server, "handle_exit", ["self", "sig", "frame"]),
        (uvicorn.Server, "capture_signals", ["self"]),
    ],
)
def test_uvicorn_calls_the_methods_that_we_override(kind: type, method: str, parameters: list[str]) -> None:
    assert list(inspect.signature(getattr(kind, method)).parameters) == parameters


def test_the_server_has_the_switches_that_we_turn() -> None:
    server = uvicorn.Server(uvicorn.Config("none:none"))
    assert (server.started, server.should_exit, server.force_exit) == (False, False, False)
    assert isinstance(server.server_state, ServerState)
