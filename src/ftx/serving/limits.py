"""The limits of one request and of all together. A request that exceeds one gets a status and a sentence.

The guard runs before the application (ASGI). It checks identity, token, bytes as they arrive, time, and the number of
concurrent requests. Pixels are counted when images are decoded, connections when they are opened.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import math
import re
import time
import traceback
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from ftx.core.byte_semaphore import AsyncByteSemaphore
from ftx.core.errors import InputError
from ftx.core.progress import Progress
from ftx.core.same_origin import rejection
from ftx.serving.http_error import Disconnected, HttpError
from ftx.serving.metrics import Metrics

# As ASGI has them (asgi.readthedocs.io, version 3).
Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

# Paths that need no token: the page, on which the user enters it, and the health checks of an orchestrator.
OPEN_PATHS = frozenset({"/", "/v2/health/live", "/v2/health/ready"})
# Bodies of all requests together, within a quarter of the free memory.
HELD_BYTES = 1 << 30
# Seconds for the head of a request, from the opening of a connection or the first byte of the head; and for TLS.
HEAD_S = 10.0
# Seconds in which a client that sends too much can read why. If the connection were closed while the client sends, the
# system would drop the response.
LINGER_S = 2.0
# Connections next to those with a request in progress: kept alive, lingering, or slow.
SPARE_CONNECTIONS = 448
_REQUEST_ID = re.compile(r"[\w.:-]{1,64}", re.ASCII)


@dataclass(frozen=True)
class Limits:
    """The limits that a user can set."""

    max_body_mb: float = 32.0
    max_pixels: int = 50_000_000
    max_concurrency: int = 64
    timeout_s: float = 30.0

    def __post_init__(self) -> None:
        """Raise InputError for an invalid limit."""
        for option, value in (("--max-body-mb", self.max_body_mb), ("--timeout-s", self.timeout_s)):
            if not 0 < value < math.inf:
                raise InputError(f"{option} must be a number above 0", found=f"{value:g}", fix=f"use {option} 30")

    @property
    def max_body_bytes(self) -> int:
        """Megabytes are powers of ten, as everywhere."""
        return int(self.max_body_mb * 1e6)

    @property
    def max_connections(self) -> int:
        """How many connections may be open."""
        return self.max_concurrency + SPARE_CONNECTIONS


@dataclass(frozen=True)
class AccessRules:
    """Clients must have the token; with ``own_names``, pages of other websites are rejected."""

    token: str | None = None
    own_names: frozenset[str] | None = None


def bug_sentence(request_id: str) -> str:
    """What a client gets for a bug."""
    return f"this is a bug in ftx; the server's log has it as request {request_id}"


class Guard:
    """Handles every request before the application does, and lets no exception out."""

    def __init__(
        self, inner: Application, limits: Limits, rules: AccessRules, metrics: Metrics, progress: Progress
    ) -> None:
        self.inner, self.limits, self.metrics, self.progress = inner, limits, metrics, progress
        self._rules, self._working, self.bodies = rules, 0, AsyncByteSemaphore.of_memory(HELD_BYTES)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":  # no websockets, no lifespan
            await _Exchange(self, scope, receive, send).run()

    def begin(self) -> None:
        """Count a request whose body is complete.

        Raises: HttpError if there are too many.
        """
        if self._working >= self.limits.max_concurrency:
            raise HttpError(503, f"{self._working} requests are in progress, which is the maximum", retry_after_s=1)
        self._working += 1
        self.metrics.in_progress.set(self._working)

    def end(self) -> None:
        """Count a request that has its response."""
        self._working -= 1
        self.metrics.in_progress.set(self._working)

    def check(self, scope: Scope, headers: dict[bytes, bytes]) -> None:
        """Check the head of a request.

        Raises: HttpError.
        """
        if self._rules.own_names is not None:
            host, origin = (
                headers[name].decode("latin-1") if name in headers else None for name in (b"host", b"origin")
            )
            why = rejection(self._rules.own_names, host, origin)
            if why:
                raise HttpError(403, f"{why}; if the server has a token (--token-file), every name is allowed")
        if self._rules.token is not None and scope["path"] not in OPEN_PATHS:
            kind, _, given = headers.get(b"authorization", b"").partition(b" ")
            if kind.lower() != b"bearer" or not hmac.compare_digest(given.strip(), self._rules.token.encode()):
                raise HttpError(401, "send the token of this server: Authorization: Bearer TOKEN")
        if headers.get(b"content-encoding", b"identity") != b"identity":
            raise HttpError(415, "the body must not be compressed: images are compressed already")
        length = headers.get(b"content-length", b"0")
        if length.isdigit():
            self.check_size(int(length))

    def check_size(self, size_bytes: int) -> None:
        """Raise HttpError if a body of this many bytes, or more, is too large."""
        if size_bytes > self.limits.max_body_bytes:
            found = f"{size_bytes / 1e6:,.1f} MB or more"
            raise HttpError(413, f"the body must be at most {self.limits.max_body_mb:g} MB, found {found}")


class _Exchange:
    """One request and its response."""

    def __init__(self, guard: Guard, scope: Scope, receive: Receive, send: Send) -> None:
        self._guard, self._scope, self._receive, self._send = guard, scope, receive, send
        self._headers: dict[bytes, bytes] = dict(scope["headers"])
        given = self._headers.get(b"x-request-id", b"").decode("latin-1")
        self._id = given if _REQUEST_ID.fullmatch(given) else uuid4().hex
        self._deadline = asyncio.get_running_loop().time() + guard.limits.timeout_s
        has_body = self._headers.get(b"content-length", b"0") != b"0" or b"transfer-encoding" in self._headers
        self._body_ended = not has_body
        self._received_bytes = self._held_bytes = self._status = 0
        self._disconnected = self._works = False
        scope.setdefault("state", {})["request_id"] = self._id

    async def run(self) -> None:
        """Respond, whatever happens."""
        started = time.perf_counter()
        try:
            self._guard.check(self._scope, self._headers)
            if self._body_ended:
                self._begin()
            await self._guard.inner(self._scope, self._next_of_body, self._respond)
        except Disconnected:
            pass
        except HttpError as error:
            await self._fail(error)
        except Exception as error:
            lines = "".join(traceback.format_exception(error))
            self._guard.progress.note(f"request {self._id}: a bug in ftx, in {self._scope['method']}: {lines}")
            await self._fail(HttpError(500, bug_sentence(self._id)))
        finally:
            self._guard.bodies.held_bytes -= self._held_bytes
            if self._works:
                self._guard.end()
            # The route is a template such as /v2/models/{name}, as a label must not contain what clients write.
            route = getattr(self._scope.get("route"), "path", None) or "none"
            self._guard.metrics.requests.labels(route, str(self._status)).inc()
            self._guard.metrics.seconds.labels(route).observe(time.perf_counter() - started)
        if self._status and not self._body_ended:
            await self._linger()

    def _begin(self) -> None:
        """Count the request as in progress, now that its body is complete: slow clients take no place.

        Raises: HttpError.
        """
        if self._scope["method"] == "POST" and not self._works:
            self._guard.begin()
            self._works = True

    async def _next_of_body(self) -> Message:
        """The next message with a piece of the body.

        Raises: HttpError, Disconnected.
        """
        try:
            async with asyncio.timeout_at(self._deadline):
                message = await self._receive()
        except TimeoutError:
            raise HttpError(408, f"the body did not arrive within {self._guard.limits.timeout_s:g} s") from None
        if message["type"] == "http.disconnect":
            self._disconnected = True
            raise Disconnected
        size_bytes = len(message.get("body", b""))
        self._received_bytes += size_bytes
        self._body_ended = not message.get("more_body", False)
        self._guard.check_size(self._received_bytes)
        if not self._guard.bodies.fits(size_bytes):
            raise HttpError(503, "the requests in progress take all the memory that they may use", retry_after_s=1)
        self._guard.bodies.held_bytes += size_bytes
        self._held_bytes += size_bytes
        if self._body_ended:
            self._begin()
        return message

    async def _respond(self, message: Message) -> None:
        """Send what the application responds, with our headers. The end waits while more of the body may come."""
        if self._disconnected:  # starlette responds to every exception on its way out, also to Disconnected
            return
        if message["type"] == "http.response.start":
            self._status = message["status"]
            own = [(b"x-request-id", self._id.encode()), (b"x-content-type-options", b"nosniff")]
            if not self._body_ended:
                own.append((b"connection", b"close"))
            message = {**message, "headers": [*message.get("headers", ()), *own]}
        elif not self._body_ended:
            message = {**message, "more_body": True}
        await self._send(message)

    async def _fail(self, error: HttpError) -> None:
        if self._status:  # the response is on its way
            return
        body = json.dumps({"error": error.sentence}).encode()
        headers = {"content-type": "application/json", "content-length": str(len(body)), **error.headers}
        pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
        await self._respond({"type": "http.response.start", "status": error.status, "headers": pairs})
        await self._respond({"type": "http.response.body", "body": body})

    async def _linger(self) -> None:
        """Drop what the client still sends, until it has read the response and closes, and then end."""
        try:
            async with asyncio.timeout(LINGER_S):
                while (message := await self._receive())["type"] != "http.disconnect" and message.get("more_body"):
                    pass
        except TimeoutError:
            pass
        self._body_ended = True
        await self._send({"type": "http.response.body", "body": b""})
