"""What one request, and all together, may cost; whoever asks for more is told so in a sentence.

The guard stands before the application (ASGI): identity, token, bytes as they come, time and the number of requests at
a time. Pixels are counted where images are decoded, connections where they are opened.
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

from ftx.core.errors import InputError
from ftx.core.memory import available_bytes
from ftx.core.progress import Progress
from ftx.core.same_origin import rejection
from ftx.serving.metrics import Metrics
from ftx.serving.refusal import Disconnected, Refused

# As ASGI has them (asgi.readthedocs.io, version 3).
Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

# What is answered without a token: the page, which asks for one, and what an orchestrator looks at.
OPEN_PATHS = frozenset({"/", "/v2/health/live", "/v2/health/ready"})
# Bodies of all requests together, within a quarter of the free memory.
HELD_BYTES = 1 << 30
# How long a client that sends more than is taken may go on, so that it comes to read why: where a connection is closed
# while it sends, the system drops the answer that it has not read yet.
LINGER_S = 2.0
_REQUEST_ID = re.compile(r"[\w.:-]{1,64}", re.ASCII)


@dataclass(frozen=True)
class Limits:
    """What is taken: of one request, and of all at a time."""

    max_body_mb: float = 32.0
    max_pixels: int = 50_000_000
    max_concurrency: int = 64
    timeout_s: float = 30.0

    def __post_init__(self) -> None:
        """Raise InputError for what would be no limit."""
        for what, value in (("largest request", self.max_body_mb), ("time for a request", self.timeout_s)):
            if not 0 < value < math.inf:
                raise InputError(f"the {what} is no limit", found=f"{value:g}", fix="a number above 0")

    @property
    def max_body_bytes(self) -> int:
        """Megabytes are powers of ten, as everywhere."""
        return int(self.max_body_mb * 1e6)


@dataclass(frozen=True)
class Asker:
    """Who may ask: whoever has the token, and with ``own_names`` no page of another website."""

    token: str | None = None
    own_names: frozenset[str] | None = None


def bug_sentence(request_id: str) -> str:
    """What a client is told of an error that nobody foresaw."""
    return f"this is a bug of ftx; the server's log has it as request {request_id}"


class Guard:
    """Every request goes through it, and no exception comes out of it."""

    def __init__(self, inner: Application, limits: Limits, asker: Asker, metrics: Metrics, progress: Progress) -> None:
        self.inner, self.limits, self._metrics, self._progress = inner, limits, metrics, progress
        self._token = None if asker.token is None else asker.token.encode()
        self._own_names = asker.own_names
        self._working = 0
        self._held_bytes, self._most_held = 0, min(HELD_BYTES, available_bytes() // 4)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":  # no websockets, no lifespan
            return
        await _Exchange(self, scope, receive, send).run()

    def begin(self) -> None:
        """Count in a request that is to be worked on.

        Raises: Refused where there are enough.
        """
        if self._working >= self.limits.max_concurrency:
            raise Refused(503, f"{self._working} requests are being answered, which is the most", retry_after_s=1)
        self._working += 1
        self._metrics.in_progress(self._working)

    def end(self, works: bool, held_bytes: int) -> None:
        """Count out a request, and what was held of its body."""
        self._working -= works
        self._held_bytes -= held_bytes
        self._metrics.in_progress(self._working)

    def hold(self, size_bytes: int) -> None:
        """Count bytes of a body in.

        Raises: Refused where all requests together have enough.
        """
        if self._held_bytes + size_bytes > self._most_held:
            raise Refused(
                503, "the requests that are being answered take all memory there is for them", retry_after_s=1
            )
        self._held_bytes += size_bytes

    def check(self, scope: Scope, headers: dict[bytes, bytes]) -> None:
        """Refuse what can be refused by its head alone.

        Raises: Refused.
        """
        if self._own_names is not None:
            host, origin = (
                headers[name].decode("latin-1") if name in headers else None for name in (b"host", b"origin")
            )
            why = rejection(self._own_names, host, origin)
            if why:
                raise Refused(403, f"{why}; with a token (--token-file) every name is answered")
        if self._token is not None and scope["path"] not in OPEN_PATHS:
            kind, _, given = headers.get(b"authorization", b"").partition(b" ")
            if kind.lower() != b"bearer" or not hmac.compare_digest(given.strip(), self._token):
                raise Refused(401, "this server asks for its token: Authorization: Bearer TOKEN")
        if headers.get(b"content-encoding", b"identity") != b"identity":
            raise Refused(415, "a compressed body is not taken: images are compressed by themselves")
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > self.limits.max_body_bytes:
            raise Refused(413, self.too_large(int(length)))

    def too_large(self, size_bytes: int) -> str:
        """What is told of a body of so many bytes, or more."""
        return f"the body has {size_bytes / 1e6:,.1f} MB or more, of at most {self.limits.max_body_mb:g}"

    def told(self, scope: Scope, status: int, seconds: float) -> None:
        """Count an answer."""
        route = getattr(scope.get("route"), "path", None)  # a template: what clients write is no label
        self._metrics.answered(route or "none", status, seconds)

    def failed(self, scope: Scope, request_id: str, error: Exception) -> None:
        """Say what nobody foresaw, with the number that the client has of it."""
        lines = "".join(traceback.format_exception(error))
        self._progress.note(f"request {request_id}: a bug of ftx in {scope['method']}: {lines}")


class _Exchange:
    """One request and its answer."""

    def __init__(self, guard: Guard, scope: Scope, receive: Receive, send: Send) -> None:
        self._guard, self._scope, self._receive, self._send = guard, scope, receive, send
        self._headers: dict[bytes, bytes] = dict(scope["headers"])
        given = self._headers.get(b"x-request-id", b"").decode("latin-1")
        self._id = given if _REQUEST_ID.fullmatch(given) else uuid4().hex
        self._until = asyncio.get_running_loop().time() + guard.limits.timeout_s
        self._came_bytes = self._held_bytes = 0
        self._body_ended = b"content-length" not in self._headers and b"transfer-encoding" not in self._headers
        self._body_ended = self._body_ended or self._headers.get(b"content-length") == b"0"
        self._status = 0
        self._gone = self._works = False
        scope.setdefault("state", {})["request_id"] = self._id

    async def run(self) -> None:
        """Answer, whatever happens."""
        started = time.perf_counter()
        try:
            self._guard.check(self._scope, self._headers)
            if self._body_ended:
                self._begin()
            await self._guard.inner(self._scope, self._more, self._answer)
        except Disconnected:
            pass
        except Refused as refused:
            await self._refuse(refused)
        except Exception as error:
            self._guard.failed(self._scope, self._id, error)
            await self._refuse(Refused(500, bug_sentence(self._id)))
        finally:
            self._guard.end(self._works, self._held_bytes)
            self._guard.told(self._scope, self._status, time.perf_counter() - started)
        if self._status and not self._body_ended:
            await self._linger()

    def _begin(self) -> None:
        """Count the request among those that are being answered, once its body is there: slow clients hold no place.

        Raises: Refused.
        """
        if self._scope["method"] == "POST" and not self._works:
            self._guard.begin()
            self._works = True

    async def _more(self) -> Message:
        """The next of the body.

        Raises: Refused, Disconnected.
        """
        try:
            async with asyncio.timeout_at(self._until):
                message = await self._receive()
        except TimeoutError:
            said = f"the body did not come within {self._guard.limits.timeout_s:g} s"
            raise Refused(408, said) from None
        if message["type"] == "http.disconnect":
            self._gone = True
            raise Disconnected
        size_bytes = len(message.get("body", b""))
        self._came_bytes += size_bytes
        self._body_ended = not message.get("more_body", False)
        if self._came_bytes > self._guard.limits.max_body_bytes:
            raise Refused(413, self._guard.too_large(self._came_bytes))
        self._guard.hold(size_bytes)
        self._held_bytes += size_bytes
        if self._body_ended:
            self._begin()
        return message

    async def _answer(self, message: Message) -> None:
        """Hand on what the application says, with our headers; its end waits where more of the body may come."""
        if self._gone:  # starlette answers every exception on its way through it, this client's too
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

    async def _refuse(self, refused: Refused) -> None:
        if self._status:  # it has begun to answer
            return
        body = json.dumps({"error": refused.sentence}).encode()
        headers = {"content-type": "application/json", "content-length": str(len(body)), **refused.headers}
        pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
        await self._answer({"type": "http.response.start", "status": refused.status, "headers": pairs})
        await self._answer({"type": "http.response.body", "body": body})

    async def _linger(self) -> None:
        """Let the client send on, unheard, until it has read the answer and hangs up, and then close."""
        try:
            async with asyncio.timeout(LINGER_S):
                while (message := await self._receive())["type"] != "http.disconnect" and message.get("more_body"):
                    pass
        except TimeoutError:
            pass
        self._body_ended = True
        await self._send({"type": "http.response.body", "body": b""})
