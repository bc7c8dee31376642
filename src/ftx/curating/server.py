"""The page, served to this machine alone: to a browser that was told its address, and to no other website in it.

Three things guard it. The address holds a secret, so that other users of the machine cannot ask. The name that is asked
for must be this machine's, so that no website can lead its own name here. And a choice must come from the page itself.
"""

from __future__ import annotations

import secrets
import sys
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import cast

from ftx.core.errors import EnvironmentFault, FtxError, shown
from ftx.core.pages import render
from ftx.core.progress import NOTES_ONLY
from ftx.core.same_origin import local_names, rejection
from ftx.core.untrusted_input import JsonError, parse_json
from ftx.curating.look import Look
from ftx.curating.page_data import page_data, shown_paths
from ftx.curating.thumbnails import Thumbnails

HOST = "127.0.0.1"
PORT = 8765
# A choice is a number and some labels; one image may have a thousand.
_MOST_BODY_BYTES = 1 << 20
# A browser that says nothing for so long has gone.
_PATIENCE_S = 30
# The page is one file; images and choices are asked for at the same address and nowhere else.
_POLICY = (
    "default-src 'none'; img-src 'self' data:; connect-src 'self'; style-src 'unsafe-inline'; "
    "script-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


# A browser that went away, or says nothing any more.
_GONE = (ConnectionError, TimeoutError)


class LookServer(ThreadingHTTPServer):
    """One look at one data set, which is shown once it has been found."""

    daemon_threads = True

    def __init__(self, port: int = PORT, *, note: Callable[[str], None] = NOTES_ONLY.note) -> None:
        """Listen, on a free port if ``port`` is 0; nothing is answered before ``show`` and ``serve_forever``.

        What cannot be answered is noted.

        Raises: EnvironmentFault if the port is taken.
        """
        self.note = note
        self.secret = secrets.token_urlsafe(24)
        try:
            super().__init__((HOST, port), _Handler)
        except OSError as error:
            raise EnvironmentFault(
                f"port {port} cannot be listened on", found=error.strerror, fix="--port 0 takes a free one"
            ) from error

    def show(self, look: Look) -> None:
        """Answer with this look, once ``serve_forever`` is called."""
        self.look = look
        self.thumbnails = Thumbnails(look.dataset.root, shown_paths(look.table.issues))

    @property
    def address(self) -> str:
        """What is to be opened in a browser."""
        return f"http://{HOST}:{self.server_address[1]}/{self.secret}/"

    def handle_error(self, request: object, client_address: object) -> None:
        """Note what went wrong outside of an answer; a browser that goes away in the middle is no error."""
        error = sys.exception()
        if error is not None and not isinstance(error, _GONE):
            self.note(f"a request failed: {type(error).__name__}: {error}")


class _Handler(BaseHTTPRequestHandler):
    server_version, sys_version = "ftx", ""
    protocol_version = "HTTP/1.1"
    timeout = _PATIENCE_S

    @property
    def _look(self) -> LookServer:
        return cast("LookServer", self.server)

    def do_GET(self) -> None:
        self._answer({"": self._page, "table.csv": self._table}, self._image)

    def do_POST(self) -> None:
        if self.headers.get("Origin") is None:  # whose it is, is seen below
            self._refuse(HTTPStatus.FORBIDDEN, "choices are taken from the page itself")
            return
        if self.headers.get_content_type() != "application/json":
            self._refuse(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "choices are JSON")
            return
        self._answer({"choices": self._choose})

    def log_message(self, format: str, *args: object) -> None:
        """The terminal is for what the reader has to know."""

    def _answer(self, known: dict[str, Callable[[], None]], other: Callable[[str], None] | None = None) -> None:
        strange = rejection(local_names(), self.headers.get("Host"), self.headers.get("Origin"))
        if strange is not None:
            self._refuse(HTTPStatus.FORBIDDEN, strange)
            return
        secret, _, rest = self.path.removeprefix("/").partition("/")
        if not secrets.compare_digest(secret.encode(errors="replace"), self._look.secret.encode()):
            self._refuse(HTTPStatus.NOT_FOUND, "open the address that ftx data look printed")
            return
        try:
            if rest in known:
                known[rest]()
            elif other is not None:
                other(rest)
            else:
                self._refuse(HTTPStatus.NOT_FOUND, "there is no such page")
        except _GONE:
            raise
        except Exception as error:
            self._look.note(f"no answer to {self.command} /{shown(rest)}: {type(error).__name__}: {error}")
            self._refuse(HTTPStatus.INTERNAL_SERVER_ERROR, "ftx could not answer this; the terminal says why")

    def _page(self) -> None:
        template = Path(__file__).with_name("page.html")
        self._send(render(template, **page_data(self._look.look)).encode(), "text/html; charset=utf-8")

    def _table(self) -> None:
        name = "".join(one if one.isascii() and (one.isalnum() or one in ".-_") else "_" for one in self._table_name)
        disposition = {"Content-Disposition": f'attachment; filename="{name}"'}
        self._send(self._look.look.table.content, "text/csv; charset=utf-8", disposition)

    @property
    def _table_name(self) -> str:
        return self._look.look.table.path.name

    def _image(self, name: str) -> None:
        number = name.removeprefix("images/")
        plain = number.isascii() and number.isdigit() and len(number) < 10
        content = self._look.thumbnails.webp(int(number)) if name.startswith("images/") and plain else None
        if content is None:
            self._refuse(HTTPStatus.NOT_FOUND, "there is no such image")
            return
        self._send(content, "image/webp", {"Cache-Control": "private, max-age=3600"})

    def _choose(self) -> None:
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdigit()) or int(length) > _MOST_BODY_BYTES:
            self._refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "this is no choice")
            return
        try:
            given = parse_json(self.rfile.read(int(length)))
        except JsonError as error:
            self._refuse(HTTPStatus.BAD_REQUEST, str(error))
            return
        match given:
            case {"number": int(number), "choice": str(choice)} if not isinstance(number, bool):
                self._note(number, choice)
            case _:
                self._refuse(HTTPStatus.BAD_REQUEST, "a choice has a number and a choice")

    def _note(self, number: int, choice: str) -> None:
        try:
            chosen = self._look.look.table.choose(number, choice)
        except FtxError as error:
            self._refuse(HTTPStatus.CONFLICT, f"{error.what}: {error.fix or error.found or ''}".rstrip(": "))
            return
        self._send(chosen.model_dump_json().encode(), "application/json")

    def _refuse(self, status: HTTPStatus, text: str) -> None:
        self.close_connection = True  # what is left of the request is not read
        self._send(text.encode(), "text/plain; charset=utf-8", {"Connection": "close"}, status)

    def _send(
        self, content: bytes, kind: str, headers: dict[str, str] | None = None, status: HTTPStatus = HTTPStatus.OK
    ) -> None:
        self.send_response(status)
        always = {
            "Content-Type": kind,
            "Content-Length": str(len(content)),
            "Content-Security-Policy": _POLICY,
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
            "Cross-Origin-Resource-Policy": "same-origin",
            "Cache-Control": "no-store",
        }
        for name, value in (always | (headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)
