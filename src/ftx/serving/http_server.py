"""uvicorn's server with our connections, a bound for TLS handshakes, and signals that end it with status 0."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import partial
from types import FrameType

import uvicorn

from ftx.core.errors import TERMINATING
from ftx.serving.connection import Connection
from ftx.serving.limits import HEAD_S, Guard, Limits
from ftx.serving.listening import BACKLOG, Endpoint

# Seconds that a connection is kept open without a request.
IDLE_S = 20


class HttpServer(uvicorn.Server):
    """Calls ``on_started`` when it is ready for requests."""

    on_started: Callable[[], None]

    def __init__(self, guard: Guard, limits: Limits, endpoint: Endpoint) -> None:
        # A client gets what is wrong with its form as a response.
        logging.getLogger("python_multipart").setLevel(logging.CRITICAL)
        super().__init__(
            uvicorn.Config(
                guard,  # pyright: ignore[reportArgumentType]  its messages are typed one by one
                http=Connection,
                ws="none",
                lifespan="off",
                loop="asyncio",
                log_config=None,
                log_level="critical",  # the guard logs
                access_log=False,
                server_header=False,
                timeout_keep_alive=IDLE_S,
                timeout_graceful_shutdown=int(2 * limits.timeout_s) + 1,
                ssl_certfile=endpoint.tls_cert,
                ssl_keyfile=endpoint.tls_key,
            )
        )
        self._limits = limits

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn does, with a bound for TLS handshakes, for which asyncio waits a minute."""
        assert sockets is not None
        patience_s = None if self.config.ssl is None else HEAD_S
        self.servers = [
            await asyncio.get_running_loop().create_server(
                partial(Connection, self._limits, self.config, self.server_state),
                sock=one,
                ssl=self.config.ssl,
                backlog=BACKLOG,
                ssl_handshake_timeout=patience_s,
                ssl_shutdown_timeout=patience_s,
            )
            for one in sockets
        ]
        self.started = True
        self.on_started()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """End after the requests in progress; for a second signal, at once."""
        self.force_exit = self.should_exit
        self.should_exit = True

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Handle signals while the block runs. uvicorn would raise them again afterwards."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        numbers = [one for one in (signal.SIGINT, *TERMINATING) if signal.getsignal(one) is not signal.SIG_IGN]
        before = {number: signal.signal(number, self.handle_exit) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
