"""The page until Ctrl-C, only for this machine: for a browser that has its address, and for no other website in it.

Three things guard it. The address contains a secret, so that other users of the machine cannot open it. The name in a
request must be this machine's, so that no website can lead its own name here. And a choice must come from the page.
"""

from __future__ import annotations

import os
import re
import secrets
import sys
import tempfile
import webbrowser
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import cast

from ftx.core.errors import EnvironmentFault, FtxError, Termination, shown
from ftx.core.pages import render
from ftx.core.progress import NOTES_ONLY
from ftx.core.same_origin import local_names, rejection
from ftx.core.untrusted_input import JsonError, parse_json
from ftx.curating.choices import claimed
from ftx.curating.look import Look
from ftx.curating.page_data import page_data, shown_paths
from ftx.curating.thumbnails import Thumbnails

HOST = "127.0.0.1"
PORT = 8765
# A choice is a number and some labels; one image may have a thousand.
_MOST_BODY_BYTES = 1 << 20
# A browser that is silent for that long has gone.
_PATIENCE_S = 30
# The page is one file; its images and choices have the same address.
_POLICY = (
    "default-src 'none'; img-src 'self' data:; connect-src 'self'; style-src 'unsafe-inline'; "
    "script-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


# A browser that went away, or is silent.
_GONE = (ConnectionError, TimeoutError)


class LookServer(ThreadingHTTPServer):
    """One look at one data set, which is shown once it has been found."""

    daemon_threads = True

    def __init__(self, port: int = PORT, *, note: Callable[[str], None] = NOTES_ONLY.note) -> None:
        """Listen, on a free port if ``port`` is 0; requests wait for ``show`` and ``serve_forever``.

        Requests that fail are noted. Raises: EnvironmentFault if the port is in use.
        """
        self.note = note
        self.secret = secrets.token_urlsafe(24)
        try:
            super().__init__((HOST, port), _Handler)
        except OSError as error:
            raise EnvironmentFault(
                f"--port {port} cannot be used", found=error.strerror, fix="use --port 0 for any free port"
            ) from error

    def show(self, look: Look) -> None:
        """Serve this look, once ``serve_forever`` is called."""
        self.look = look
        self.thumbnails = Thumbnails(look.dataset.root, shown_paths(look.table.issues))

    @property
    def address(self) -> str:
        """The address to open in a browser."""
        return f"http://{HOST}:{self.server_address[1]}/{self.secret}/"

    def handle_error(self, request: object, client_address: object) -> None:
        """Note an error outside of a response; a browser that goes away in the middle is none."""
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
        self._respond({"": self._page, "table.csv": self._table}, self._image)

    def do_POST(self) -> None:
        if self.headers.get("Origin") is None:  # whose it is, is seen below
            self._fail(HTTPStatus.FORBIDDEN, "choices are accepted only from the page itself")
            return
        if self.headers.get_content_type() != "application/json":
            self._fail(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "choices are JSON")
            return
        self._respond({"choices": self._choose})

    def log_message(self, format: str, *args: object) -> None:
        """Requests are not logged: the terminal is for what the reader has to know."""

    def _respond(self, known: dict[str, Callable[[], None]], other: Callable[[str], None] | None = None) -> None:
        strange = rejection(local_names(), self.headers.get("Host"), self.headers.get("Origin"))
        if strange is not None:
            self._fail(HTTPStatus.FORBIDDEN, strange)
            return
        secret, _, rest = self.path.removeprefix("/").partition("/")
        if not secrets.compare_digest(secret.encode(errors="replace"), self._look.secret.encode()):
            self._fail(HTTPStatus.NOT_FOUND, "open the address that ftx data look printed")
            return
        try:
            if rest in known:
                known[rest]()
            elif other is not None:
                other(rest)
            else:
                self._fail(HTTPStatus.NOT_FOUND, "there is no such page")
        except _GONE:
            raise
        except Exception as error:
            self._look.note(f"failed: {self.command} /{shown(rest)}: {type(error).__name__}: {error}")
            self._fail(HTTPStatus.INTERNAL_SERVER_ERROR, "this request failed; the terminal shows why")

    def _page(self) -> None:
        template = Path(__file__).with_name("page.html")
        self._send(render(template, **page_data(self._look.look)).encode(), "text/html; charset=utf-8")

    def _table(self) -> None:
        name = re.sub(r"[^A-Za-z0-9._-]", "_", self._look.look.table.path.name)
        disposition = {"Content-Disposition": f'attachment; filename="{name}"'}
        self._send(self._look.look.table.content, "text/csv; charset=utf-8", disposition)

    def _image(self, name: str) -> None:
        number = name.removeprefix("images/")
        plain = number.isascii() and number.isdigit() and len(number) < 10
        content = self._look.thumbnails.webp(int(number)) if name.startswith("images/") and plain else None
        if content is None:
            self._fail(HTTPStatus.NOT_FOUND, "there is no such image")
            return
        self._send(content, "image/webp", {"Cache-Control": "private, max-age=3600"})

    def _choose(self) -> None:
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdigit()) or int(length) > _MOST_BODY_BYTES:
            self._fail(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "this is no choice")
            return
        try:
            given = parse_json(self.rfile.read(int(length)))
        except JsonError as error:
            self._fail(HTTPStatus.BAD_REQUEST, str(error))
            return
        match given:
            case {"number": int(number), "choice": str(choice)} if not isinstance(number, bool):
                try:
                    chosen = self._look.look.table.choose(number, choice)
                except FtxError as error:
                    self._fail(HTTPStatus.CONFLICT, f"{error.what}: {error.fix or error.found or ''}".rstrip(": "))
                else:
                    self._send(chosen.model_dump_json().encode(), "application/json")
            case _:
                self._fail(HTTPStatus.BAD_REQUEST, "a choice has a number and a choice")

    def _fail(self, status: HTTPStatus, text: str) -> None:
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


def serve(server: LookServer, look: Look, *, open_browser: bool = False, announce: Callable[[str], None]) -> None:
    """Serve the page of a look, whose address is announced; every choice is on disk when its response is sent.

    Raises: InputError if another page chooses in the table; Termination where the system ends the program.
    """
    with (
        claimed(look.table.path),
        redirect_file(server.address) if open_browser else nullcontext("") as redirect,
    ):
        server.show(look)
        announce(server.address)
        if open_browser:
            webbrowser.open(redirect)
        try:
            server.serve_forever()
        except Termination:
            raise
        except KeyboardInterrupt:  # how one ends it
            return


@contextmanager
def redirect_file(address: str) -> Iterator[str]:
    """The URL of a file that leads to the address and that no other user can read; it is gone after the block.

    Every user can read the words that a browser is started with, and the address holds a secret.
    """
    with tempfile.TemporaryDirectory(prefix="ftx-look-") as folder:  # 0700
        path = Path(folder) / "open.html"
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as stream:
            stream.write(
                f'<!doctype html><meta charset="utf-8"><meta http-equiv="refresh" content="0; url={address}">'
                f'<title>ftx data look</title><a href="{address}">The page</a>\n'
            )
        yield path.as_uri()
